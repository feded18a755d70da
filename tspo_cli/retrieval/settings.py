"""What can be set on an index, checked: `KEY=VALUE` in, a frozen dataclass out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from tspo_cli.errors import InvalidInputError

METHODS = ("lucene", "robertson", "atire")
STOP_WORD_LISTS = ("lucene", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Settings:
    """BM25 as Lucene scores it. Raises InvalidInputError for a value out of range."""

    method: str = "lucene"
    k1: float = 1.5
    b: float = 0.75
    stop_words: str = "lucene"

    def __post_init__(self) -> None:
        _require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        _require(0 <= self.k1 < float("inf"), "k1", "0 or more", self.k1)
        _require(0 <= self.b <= 1, "b", "from 0 to 1", self.b)
        _require(self.stop_words in STOP_WORD_LISTS, "stop_words", " or ".join(STOP_WORD_LISTS), self.stop_words)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSettings:
    """How texts are encoded. E5 wants the prefixes `query: ` and `passage: `. `max_length` is in tokens."""

    batch_size: int = 64
    query_prefix: str = ""
    passage_prefix: str = ""
    max_length: int = 256

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch_size", "1 or more", self.batch_size)
        _require(self.max_length >= 1, "max_length", "1 or more", self.max_length)


Settings = TypeVar("Settings", Bm25Settings, DenseSettings)


def parse_settings(kind: type[Settings], given: Mapping[str, object]) -> Settings:
    """The settings of a kind of index from strings (or values of the right type).

    Raises:
        InvalidInputError: an unknown name, with the nearest known one, or a value that does not fit.
    """
    types: dict[str, Any] = {field.name: type(field.default) for field in fields(kind)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in types:
            near = get_close_matches(name, types, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(types)}"
            raise InvalidInputError(f"setting {name!r}: unknown for this kind of index; {hint}")
        try:
            values[name] = types[name](value)
        except (TypeError, ValueError):
            wanted = {int: "a whole number", float: "a number"}[types[name]]
            raise InvalidInputError(f"setting {name}: expected {wanted}, got {value!r}") from None
    return kind(**values)


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise InvalidInputError(f"setting {name}: expected {expected}, got {got!r}")
