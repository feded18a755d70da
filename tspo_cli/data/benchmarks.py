"""The registry of question sets: seven benchmarks and the user's own sets, one TOML entry each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tspo_cli.errors import InvalidInputError
from tspo_cli.plain_files import is_plain, read_plain_text
from tspo_cli.text.toml_text import parse_toml

REGISTRY = Path(__file__).parent / "benchmarks.toml"
USER_REGISTRY = "benchmarks.toml"


class Benchmark(BaseModel):
    """A named question set. Its questions come from `path`, or from `hub` in the form
    `hf:NAME[:CONFIG]:SPLIT`.

    `size` is the number of questions of the whole split, 0 if unknown. `hops` is the largest number
    of hops of a question. `paragraphs` is where the hub has the questions with paragraphs of their
    own, as `hf:NAME[:CONFIG]`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    title: str = ""
    path: str = ""
    hub: str = ""
    corpus: str = ""
    paragraphs: str = ""
    split: str = ""
    size: int = 0
    hops: int = 0
    licence: str = ""
    source: str = ""
    paper: str = ""

    @model_validator(mode="after")
    def _has_a_location(self) -> Benchmark:
        if not (self.path or self.hub):
            raise ValueError('expected "path" or "hub"')
        return self

    @property
    def location(self) -> Path:
        """The path that `read_questions` reads."""
        return Path(self.path or self.hub)


def benchmarks(roots: Iterable[Path]) -> dict[str, Benchmark]:
    """The built-in registry with the entries of benchmarks.toml of each root folder. A later entry
    replaces an earlier one of the same name.

    Raises:
        InvalidInputError: a registry is not valid TOML or has an unknown field, or an entry has
            neither path nor hub.
    """
    registry = _read(REGISTRY)
    for root in roots:
        if is_plain(root / USER_REGISTRY):
            registry |= _read(root / USER_REGISTRY)
    return registry


def _read(path: Path) -> dict[str, Benchmark]:
    table = parse_toml(read_plain_text(path), str(path))
    return {name: _entry(path, name, fields) for name, fields in table.items()}


def _entry(path: Path, name: str, fields: Any) -> Benchmark:
    if not isinstance(fields, dict):
        raise InvalidInputError(f"{path}: [{name}]: expected a table")
    paths = {
        key: str(path.parent / fields[key])
        for key in ("path", "corpus")
        if isinstance(fields.get(key), str)
    }
    try:
        return Benchmark.model_validate({"name": name, **fields, **paths})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidInputError(
            f"{path}: [{name}] {field}: {first['msg'].removeprefix('Value error, ')}"
        ) from None
