"""Settings of an index from `KEY=VALUE` pairs, and what a search may change of them.

The settings themselves are defined in `config/index_settings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from tspo_cli.config.keys import expects
from tspo_cli.config.sections.index_settings import (
    INDEX_PARTS,
    SEARCH_PARTS,
    UNRECORDED,
    Bm25Settings,
    ChunkSettings,
    DenseSettings,
    FusionSettings,
    RerankSettings,
    TieSettings,
    search_time_names,
)
from tspo_cli.config.sections.section import Section
from tspo_cli.data.corpus.chunks import Chunking
from tspo_cli.errors import InvalidInputError

_ALWAYS_RECORDED = object()
_SPEED_ONLY = ("device", "batch_size", "batch_tokens")
_NOT_IN_VECTORS = {
    *("preset", "query_prefix", "factory", "train_size", "rescore"),
    *("candidates", "nprobe", "ef_search", "backend", "first_pass"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """All settings of one index; a part that its kind does not use is None."""

    chunks: ChunkSettings = field(default_factory=ChunkSettings)
    bm25: Bm25Settings | None = None
    dense: DenseSettings | None = None
    fusion: FusionSettings | None = None
    rerank: RerankSettings = field(default_factory=RerankSettings)
    ties: TieSettings = field(default_factory=TieSettings)

    @property
    def chunking(self) -> Chunking:
        """How documents are cut."""
        return Chunking(self.chunks.chunk_tokens, self.chunks.chunk_overlap)

    def values(self) -> dict[str, Any]:
        """All settings of the index, without re-ranking and ties, which belong to a search."""
        parts = [self.bm25, self.dense, self.fusion, self.chunks]
        return {
            name: value
            for part in parts
            if part is not None
            for name, value in part.model_dump().items()
        }

    def flat(self) -> dict[str, Any]:
        """The `parameters` of a manifest: `values` without UNRECORDED."""
        return {name: value for name, value in self.values().items() if value != _unrecorded(name)}


def _unrecorded(name: str) -> Any:
    return next((part[name] for part in UNRECORDED.values() if name in part), _ALWAYS_RECORDED)


def built_settings(kind: str, recorded: Mapping[str, object]) -> IndexSettings:
    """The settings of an index from the `parameters` of its manifest.

    Raises as `index_settings`.
    """
    absent = {
        name: value
        for part in INDEX_PARTS.get(kind, {})
        for name, value in UNRECORDED.get(part, {}).items()
    }
    return index_settings(kind, {**absent, **recorded})


def index_settings(
    kind: str, given: Mapping[str, object], *, searching: bool = False
) -> IndexSettings:
    """The settings of an index of `kind` from strings, or values of the right type.

    `searching` also allows the settings of a search, which are no part of an index.

    Raises:
        InvalidInputError: an unknown kind or name (the message has the closest known one), or a
            value that does not fit.
    """
    if kind not in INDEX_PARTS:
        raise InvalidInputError(
            f"kind: expected one of {', '.join(INDEX_PARTS)}, got {kind!r}"
            + _did_you_mean(kind, list(INDEX_PARTS))
        )
    parts = {**INDEX_PARTS[kind], **(SEARCH_PARTS[kind] if searching else {})}
    known = [name for part in parts.values() for name in part.model_fields]
    for name in given:
        if name not in known:
            hint = _did_you_mean(name, known) or f"; known are {', '.join(known)}"
            raise InvalidInputError(f"setting {name!r}: unknown for this kind of index{hint}")
    values: dict[str, Any] = {name: _checked(part, given) for name, part in parts.items()}
    return IndexSettings(**values)


def for_search(settings: IndexSettings, kind: str, given: Mapping[str, object]) -> IndexSettings:
    """`settings` with the search-time settings in `given` changed.

    Raises:
        InvalidInputError: a setting that is fixed once the index is built, or as `index_settings`.
    """
    built, changeable = settings.values(), search_time_names(kind)
    for name in given:
        if name in built and name not in changeable:
            raise InvalidInputError(
                f"setting {name!r}: fixed when the index was built; a search may change "
                f"{', '.join(changeable)}"
            )
    return index_settings(kind, {**built, **given}, searching=True)


def changed_results(built: IndexSettings, chosen: IndexSettings) -> dict[str, Any]:
    """The search settings that make the results differ from those of the index as built.

    Settings that change the speed only are left out; a model is given by its name.
    """
    before = built.values()
    changed = {name: value for name, value in chosen.values().items() if value != before[name]}
    if chosen.rerank.reranker:
        changed |= chosen.rerank.model_dump()
        changed["reranker"] = PurePath(chosen.rerank.reranker).name
    if chosen.ties != built.ties:
        changed |= chosen.ties.model_dump()
    return {name: value for name, value in changed.items() if name not in _SPEED_ONLY}


def vector_settings(settings: DenseSettings) -> dict[str, Any]:
    """What the encoded passages depend on; builds that agree in it can share them."""
    return {**settings.model_dump(exclude=_NOT_IN_VECTORS), "kept_in": shard_type(settings)}


def shard_type(settings: DenseSettings) -> Literal["float32", "float16"]:
    """The dtype of encoded passages until the index is written.

    float16, unless the finished index keeps float32.
    """
    return "float32" if settings.factory == "Flat" or settings.rescore == "float32" else "float16"


def _checked(part: type[Section], given: Mapping[str, object]) -> Section:
    """The settings of one part, out of `given`. Raises InvalidInputError for a wrong value."""
    values = {name: value for name, value in given.items() if name in part.model_fields}
    try:
        return part.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    if not first["loc"]:  # a rule over several settings, whose message is complete
        raise InvalidInputError(str(first["ctx"]["error"]))
    name = str(first["loc"][0])
    expected = part.model_fields[name]
    known = get_args(expected.annotation) if get_origin(expected.annotation) is Literal else ()
    raise InvalidInputError(
        f"setting {name}: expected {expects(expected)}, got {values[name]!r}"
        + _did_you_mean(str(values[name]), known)
    )


def _did_you_mean(got: str, known: Sequence[str]) -> str:
    near = get_close_matches(got, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
