"""What can be set on an index, checked: `KEY=VALUE` in, a frozen dataclass out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, TypeVar

from tspo_cli.errors import InvalidInputError

METHODS = ("lucene", "robertson", "atire")
STOP_WORD_LISTS = ("lucene", "english", "none")
STEMMERS = ("none", "english", "porter")
PRESETS = ("auto", "none", "e5", "bge", "minilm")
POOLINGS = ("model", "mean", "cls", "lasttoken")
DTYPES = ("float32", "bfloat16", "float16")
RESCORES = ("none", "float16", "float32")
BACKENDS = ("faiss", "torch")
FIRST_PASSES = ("float32", "float16", "int8")
TIES = ("position", "id")
ENCODER_BACKENDS = ("torch", "onnx", "onnx-int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Settings:
    """BM25 as Lucene scores it. Raises InvalidInputError for a value out of range."""

    method: str = "lucene"
    k1: float = 1.5
    b: float = 0.75
    stop_words: str = "lucene"
    stemmer: str = "none"

    def __post_init__(self) -> None:
        _one_of("method", METHODS, self.method)
        _require(0 <= self.k1 < float("inf"), "k1", "0 or more", self.k1)
        _require(0 <= self.b <= 1, "b", "from 0 to 1", self.b)
        _one_of("stop_words", STOP_WORD_LISTS, self.stop_words)
        _one_of("stemmer", STEMMERS, self.stemmer)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSettings:
    """How texts are encoded, how vectors are kept, and how they are searched.

    Encoding: `preset` fills in the prefixes and the pooling of a family of encoders (auto: by the
    encoder's name); what is given beside it wins. `max_length` is in tokens; a batch holds at most
    `batch_tokens` padded tokens and `batch_size` texts. `dtype` bfloat16 is about twice as fast as
    float32, on CPUs that have it too. `encoder_backend` onnx and onnx-int8 encode in ONNX Runtime
    on the CPU.

    Keeping: `factory` is a FAISS factory string (Flat, SQfp16, SQ8, IVF1024,Flat, IVF1024,PQ48,
    HNSW32). `rescore` keeps all vectors beside a compressed index, and scores the best `candidates`
    of the first pass with them again. `train_size` vectors train a compressed index (0: what its
    kind needs). `shard_size` passages are encoded between two writes: what a killed build loses at
    most.

    Searching (may be changed on opening): `nprobe` lists of an IVF, `ef_search` of an HNSW;
    `backend` torch searches a flat index in blocks, on GPUs where there are some, in the numbers of
    `first_pass` (float16 and int8 first look at `candidates` and go on until the answer is exact).
    """

    preset: str = "auto"
    query_prefix: str = ""
    passage_prefix: str = ""
    pooling: str = "model"
    normalize: bool = True
    max_length: int = 256
    batch_size: int = 64
    batch_tokens: int = 16384
    dtype: str = "float32"
    device: str = "auto"
    encoder_backend: str = "torch"
    factory: str = "Flat"
    rescore: str = "none"
    train_size: int = 0
    shard_size: int = 4096
    candidates: int = 100
    nprobe: int = 32
    ef_search: int = 128
    backend: str = "faiss"
    first_pass: str = "float32"

    def __post_init__(self) -> None:
        _one_of("preset", PRESETS, self.preset)
        _one_of("pooling", POOLINGS, self.pooling)
        _one_of("dtype", DTYPES, self.dtype)
        _one_of("rescore", RESCORES, self.rescore)
        _one_of("backend", BACKENDS, self.backend)
        _one_of("first_pass", FIRST_PASSES, self.first_pass)
        _one_of("encoder_backend", ENCODER_BACKENDS, self.encoder_backend)
        if self.encoder_backend != "torch":
            _require(
                self.dtype == "float32", "dtype", f"float32 with {self.encoder_backend}", self.dtype
            )
            _require(
                self.device in ("auto", "cpu"),
                "device",
                f"auto or cpu with {self.encoder_backend}",
                self.device,
            )
        for name in (
            "batch_size",
            "batch_tokens",
            "max_length",
            "shard_size",
            "candidates",
            "nprobe",
            "ef_search",
        ):
            _require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        _require(self.train_size >= 0, "train_size", "0 or more", self.train_size)


SEARCH_KEYS = (
    *("device", "dtype", "batch_size", "batch_tokens", "encoder_backend"),
    *("candidates", "nprobe", "ef_search", "backend", "first_pass"),
    *("rrf_constant", "depth", "reranker", "rerank_depth", "ties"),
)
"""Settings that an opened index may have otherwise than the build: they change speed and recall,
not the files.
"""
_SPEED_ALONE = ("device", "batch_size", "batch_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionSettings:
    """Reciprocal-rank fusion of BM25 and dense (Cormack et al. 2009): a passage scores the sum of
    1 / (rrf_constant + rank) over the two rankings, each cut at `depth`."""

    rrf_constant: int = 60
    depth: int = 100

    def __post_init__(self) -> None:
        for name in ("rrf_constant", "depth"):
            _require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankSettings:
    """A cross-encoder (directory or name; empty: none) that orders the best `rerank_depth` passages
    anew.
    """

    reranker: str = ""
    rerank_depth: int = 50

    def __post_init__(self) -> None:
        _require(self.rerank_depth >= 1, "rerank_depth", "1 or more", self.rerank_depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class TieSettings:
    """The order of passages with equal BM25 scores: ascending position in the corpus, or ascending
    id.
    """

    ties: str = "position"

    def __post_init__(self) -> None:
        _one_of("ties", TIES, self.ties)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """All settings of one index; a part that its kind does not use is None."""

    bm25: Bm25Settings | None = None
    dense: DenseSettings | None = None
    fusion: FusionSettings | None = None
    rerank: RerankSettings = field(default_factory=RerankSettings)
    ties: TieSettings = field(default_factory=TieSettings)

    def flat(self) -> dict[str, Any]:
        """One flat mapping, for the manifest; re-ranking and ties belong to the search and stay
        out.
        """
        parts = [part for part in (self.bm25, self.dense, self.fusion) if part is not None]
        return {name: value for part in parts for name, value in asdict(part).items()}


_NOT_IN_VECTORS = (
    *("preset", "query_prefix", "factory", "train_size", "rescore"),
    *("candidates", "nprobe", "ef_search", "backend", "first_pass"),
)


def vector_settings(settings: DenseSettings) -> dict[str, Any]:
    """What the encoded passages depend on; builds that agree in it can share them."""
    return {
        name: value for name, value in asdict(settings).items() if name not in _NOT_IN_VECTORS
    } | {"kept_in": shard_type(settings)}


def shard_type(settings: DenseSettings) -> str:
    """The numbers that encoded passages are kept in until the index is written: half precision
    where nothing more exact is kept in the end.
    """
    return "float32" if settings.factory == "Flat" or settings.rescore == "float32" else "float16"


KINDS = ("bm25", "dense", "hybrid")
_PARTS: dict[str, dict[str, type]] = {
    "bm25": {"bm25": Bm25Settings},
    "dense": {"dense": DenseSettings},
    "hybrid": {"bm25": Bm25Settings, "dense": DenseSettings, "fusion": FusionSettings},
}
_SEARCH_PARTS: dict[str, dict[str, type]] = {
    "bm25": {"rerank": RerankSettings, "ties": TieSettings},
    "dense": {"rerank": RerankSettings},
    "hybrid": {"rerank": RerankSettings, "ties": TieSettings},
}
"""What belongs to a search alone and is no part of an index."""
Part = TypeVar("Part")


def index_settings(
    kind: str, given: Mapping[str, object], *, searching: bool = False
) -> IndexSettings:
    """The settings of an index of `kind` from strings, or values of the right type.

    `searching` knows the keys of re-ranking and ties too, which are no part of an index.

    Raises:
        InvalidInputError: an unknown kind or name, with the nearest known one, or a value that does
        not fit.
    """
    _one_of("kind", KINDS, kind)
    parts = {**_PARTS[kind], **(_SEARCH_PARTS[kind] if searching else {})}
    known = [item.name for part in parts.values() for item in fields(part)]
    _check_names(given, known)
    values: dict[str, Any] = {
        name: _parse(part, {key: value for key, value in given.items() if key in _names(part)})
        for name, part in parts.items()
    }
    return IndexSettings(**values)


def parse_settings(part: type[Part], given: Mapping[str, object]) -> Part:
    """One group of settings. Raises InvalidInputError as `index_settings`."""
    _check_names(given, list(_names(part)))
    return _parse(part, given)


def for_search(settings: IndexSettings, kind: str, given: Mapping[str, object]) -> IndexSettings:
    """`settings` with the search keys in `given` changed.

    Raises:
        InvalidInputError: a key that is fixed once the index is built, or as `index_settings`.
    """
    fixed = [name for name in given if name in settings.flat() and name not in SEARCH_KEYS]
    if fixed:
        searching = (name for part in _SEARCH_PARTS[kind].values() for name in _names(part))
        free = [name for name in (*settings.flat(), *sorted(searching)) if name in SEARCH_KEYS]
        raise InvalidInputError(
            f"setting {fixed[0]!r}: fixed when the index was built; at search time known are "
            f"{', '.join(free)}"
        )
    return index_settings(kind, {**settings.flat(), **given}, searching=True)


def searched_otherwise(built: IndexSettings, chosen: IndexSettings) -> dict[str, Any]:
    """The settings of a search that make its answers other than those of the index as built; a
    model by its name.
    """
    before = built.flat()
    changed = {name: value for name, value in chosen.flat().items() if value != before[name]}
    if chosen.rerank.reranker:
        changed |= {**asdict(chosen.rerank), "reranker": PurePath(chosen.rerank.reranker).name}
    if chosen.ties != built.ties:
        changed |= asdict(chosen.ties)
    return {name: value for name, value in changed.items() if name not in _SPEED_ALONE}


def _check_names(given: Mapping[str, object], known: list[str]) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise InvalidInputError(f"setting {name!r}: unknown for this kind of index; {hint}")


def _names(part: type) -> set[str]:
    return {item.name for item in fields(part)}


def _parse(part: type[Part], given: Mapping[str, object]) -> Part:
    types: dict[str, Any] = {item.name: type(item.default) for item in fields(part)}  # type: ignore[arg-type]
    return part(**{name: _value(name, types[name], value) for name, value in given.items()})


def _value(name: str, kind: Any, value: object) -> Any:
    if kind is bool and not isinstance(value, bool):
        if str(value).lower() not in ("true", "false"):
            raise InvalidInputError(f"setting {name}: expected true or false, got {value!r}")
        return str(value).lower() == "true"
    try:
        return kind(value)
    except (TypeError, ValueError):
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise InvalidInputError(f"setting {name}: expected {wanted}, got {value!r}") from None


def _one_of(name: str, known: Iterable[str], got: str) -> None:
    if got not in known:
        near = get_close_matches(got, list(known), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        where = name if name == "kind" else f"setting {name}"
        raise InvalidInputError(f"{where}: expected one of {', '.join(known)}, got {got!r}{hint}")


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise InvalidInputError(f"setting {name}: expected {expected}, got {got!r}")
