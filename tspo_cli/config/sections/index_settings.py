"""Settings of a search index: how texts become words or vectors, how those are kept and searched.

Each kind of index has its settings here, once. `tspo index build --set`, the `--set` of a search,
`retriever.search` in an experiment file and the `parameters` of a manifest are made from them.
A field with `SEARCH_TIME` may be changed when a built index is opened: it changes speed and recall,
never a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, create_model, model_validator
from pydantic.fields import FieldInfo

from tspo_cli.config.sections.section import Section

SEARCH_TIME: dict[str, Any] = {"search_time": True}
UNRECORDED: dict[str, dict[str, Any]] = {
    "bm25": {"tokens": "words", "min_word": 2},
    "chunks": {"chunk_tokens": 0, "chunk_overlap": 0},
}
"""Settings that a manifest has only with another value than this one. Indexes that were built
before the setting existed were built as this value says.
"""


class ChunkSettings(Section):
    """How long documents become passages. An index of whole documents does not record it."""

    chunk_tokens: int = Field(
        0,
        ge=0,
        description="Most words in a passage; longer documents are cut. In scripts without "
        "spaces, each letter counts as a word. 0: whole documents.",
    )
    chunk_overlap: int = Field(
        0, ge=0, description="Words at the end of a chunk that the next one repeats."
    )

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> ChunkSettings:
        if self.chunk_overlap and self.chunk_overlap >= self.chunk_tokens:
            without = "" if self.chunk_tokens else "; without chunk_tokens no document is cut"
            raise ValueError(
                f"setting chunk_overlap: expected less than chunk_tokens ({self.chunk_tokens}), "
                f"got {self.chunk_overlap}{without}"
            )
        return self


class Bm25Settings(Section):
    """BM25 as Lucene scores it, or a variant (Kamphuis et al. 2020)."""

    method: Literal["lucene", "robertson", "atire"] = Field(
        "lucene", description="Variant of the scoring formula."
    )
    k1: float = Field(1.5, ge=0, description="How slowly repeated words stop to add to the score.")
    b: float = Field(0.75, ge=0, le=1, description="How much a long passage is marked down.")
    stop_words: Literal["lucene", "english", "none"] = Field(
        "lucene", description="List of words that are not indexed."
    )
    stemmer: Literal["none", "english", "porter"] = Field(
        "none", description="Snowball stemmer for words."
    )
    tokens: Literal["auto", "words", "ngrams"] = Field(
        "auto",
        description="words: what stands between spaces and marks; ngrams: the same, and pairs of "
        "neighbouring letters in scripts without spaces; auto: as a sample of the corpus needs.",
    )
    min_word: int = Field(
        2,
        ge=1,
        description="Letters of the shortest word that is indexed; 1 keeps the X of 'Malcolm X'.",
    )


class DenseSettings(Section):
    """How texts are encoded, how vectors are kept, and how they are searched.

    `rescore` keeps all vectors beside a compressed index; the best `candidates` of the first pass
    are then scored again with them. `backend` torch searches a flat index in blocks, on GPUs if
    there are any. Its `first_pass` in float16 or int8 takes `candidates` and continues until the
    result is exact.
    """

    preset: Literal["auto", "none", "e5", "e5-instruct", "bge", "bge-zh", "bge-m3", "minilm"] = (
        Field(
            "auto",
            description="Prefixes and pooling of a family of encoders; auto: by its name, and "
            "the prompts in the encoder's own files win. Settings given explicitly win.",
        )
    )
    query_prefix: str = Field(
        "", description="Text before a query. Not given: the encoder's own prompt, or its preset's."
    )
    passage_prefix: str = Field(
        "",
        description="Text before a passage. Not given: the encoder's own prompt, or its preset's.",
    )
    pooling: Literal["model", "mean", "cls", "lasttoken"] = Field(
        "model", description="How token vectors become one vector; model: as its files say."
    )
    normalize: bool = Field(True, description="Scale vectors to length one (cosine similarity).")
    max_length: int = Field(256, ge=1, description="Longest text in tokens; the end is cut off.")
    batch_size: int = Field(
        64, ge=1, description="Most texts that are encoded at once.", json_schema_extra=SEARCH_TIME
    )
    batch_tokens: int = Field(
        16384,
        ge=1,
        description="Most padded tokens that are encoded at once.",
        json_schema_extra=SEARCH_TIME,
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Numbers of the encoder; bfloat16 is about twice as fast as float32.",
        json_schema_extra=SEARCH_TIME,
    )
    device: str = Field(
        "auto",
        description="Where the encoder runs: auto, cpu, cuda or cuda:N.",
        json_schema_extra=SEARCH_TIME,
    )
    encoder_backend: Literal["torch", "onnx", "onnx-int8"] = Field(
        "torch",
        description="What encodes; onnx runs on the CPU. Queries fit best if the passages were "
        "encoded with the same backend.",
        json_schema_extra=SEARCH_TIME,
    )
    factory: str = Field(
        "Flat",
        description="FAISS factory string: Flat, SQfp16, SQ8, IVF1024,Flat, IVF1024,PQ48, HNSW32.",
    )
    rescore: Literal["none", "float16", "float32"] = Field(
        "none", description="Numbers of the full vectors kept beside a compressed index."
    )
    train_size: int = Field(
        0, ge=0, description="Vectors that train a compressed index. 0: what its kind needs."
    )
    shard_size: int = Field(
        4096,
        ge=1,
        description="Passages encoded between two writes: the most that a killed build loses.",
    )
    candidates: int = Field(
        100,
        ge=1,
        description="Best of a compressed first pass that are scored again.",
        json_schema_extra=SEARCH_TIME,
    )
    nprobe: int = Field(
        32, ge=1, description="Lists of an IVF index to search.", json_schema_extra=SEARCH_TIME
    )
    ef_search: int = Field(
        128,
        ge=1,
        description="Breadth of the search of an HNSW index.",
        json_schema_extra=SEARCH_TIME,
    )
    backend: Literal["faiss", "torch"] = Field(
        "faiss", description="What searches a flat index.", json_schema_extra=SEARCH_TIME
    )
    first_pass: Literal["float32", "float16", "int8"] = Field(
        "float32",
        description="Numbers of the first pass of backend torch.",
        json_schema_extra=SEARCH_TIME,
    )

    @model_validator(mode="after")
    def _onnx_runs_in_float32_on_the_cpu(self) -> DenseSettings:
        if self.encoder_backend != "torch":
            if self.dtype != "float32":
                raise ValueError(
                    f"setting dtype: expected float32 with {self.encoder_backend}, "
                    f"got {self.dtype!r}"
                )
            if self.device not in ("auto", "cpu"):
                raise ValueError(
                    f"setting device: expected auto or cpu with {self.encoder_backend}, "
                    f"got {self.device!r}"
                )
        return self


class FusionSettings(Section):
    """Reciprocal-rank fusion of BM25 and dense (Cormack et al. 2009).

    A passage scores the sum of 1 / (rrf_constant + rank) over the two rankings, each cut at
    `depth`.
    """

    rrf_constant: int = Field(
        60,
        ge=1,
        description="Constant of the reciprocal-rank fusion.",
        json_schema_extra=SEARCH_TIME,
    )
    depth: int = Field(
        100, ge=1, description="Ranks of each ranking to fuse.", json_schema_extra=SEARCH_TIME
    )


class RerankSettings(Section):
    """A cross-encoder that sorts the best passages again. It is no part of an index."""

    reranker: str = Field(
        "",
        description="Cross-encoder that sorts the best passages again, a directory or a name.",
        json_schema_extra=SEARCH_TIME,
    )
    rerank_depth: int = Field(
        50, ge=1, description="Passages for the reranker to sort.", json_schema_extra=SEARCH_TIME
    )


class TieSettings(Section):
    """The order of passages with equal BM25 scores. It is no part of an index."""

    ties: Literal["position", "id"] = Field(
        "position",
        description="Order of equal BM25 scores: by position in the corpus, or by id.",
        json_schema_extra=SEARCH_TIME,
    )


INDEX_PARTS: dict[str, dict[str, type[Section]]] = {
    "bm25": {"bm25": Bm25Settings, "chunks": ChunkSettings},
    "dense": {"dense": DenseSettings, "chunks": ChunkSettings},
    "hybrid": {
        "bm25": Bm25Settings,
        "dense": DenseSettings,
        "fusion": FusionSettings,
        "chunks": ChunkSettings,
    },
}
"""The settings of each kind of index, which its manifest keeps."""
SEARCH_PARTS: dict[str, dict[str, type[Section]]] = {
    "bm25": {"rerank": RerankSettings, "ties": TieSettings},
    "dense": {"rerank": RerankSettings},
    "hybrid": {"rerank": RerankSettings, "ties": TieSettings},
}
"""The settings that belong to a search alone; no manifest keeps them."""
_KINDS_OF: dict[type[Section], str] = {
    DenseSettings: "[dense] ",
    FusionSettings: "[hybrid] ",
    RerankSettings: "",
    TieSettings: "[bm25, hybrid] ",
}
"""The kinds of index that a search setting applies to, as an experiment file states them."""


def search_time_names(kind: str) -> list[str]:
    """The settings that may be changed when an index of `kind` is opened, in their order."""
    parts = {**INDEX_PARTS[kind], **SEARCH_PARTS[kind]}
    return [name for part in parts.values() for name, _ in search_time_fields(part)]


def search_time_fields(part: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of `part` that may be changed when a built index is opened."""
    return (
        (name, field)
        for name, field in part.model_fields.items()
        if field.json_schema_extra == SEARCH_TIME
    )


def _as_built_or(field: FieldInfo, kinds: str) -> tuple[Any, Any]:
    """The field in an experiment file: "" or 0 stands for the setting of the index as built."""
    description = f"{kinds}{field.description}"
    if get_origin(field.annotation) is Literal:
        return Literal["", *get_args(field.annotation)], Field("", description=description)
    if field.annotation is int:
        return int, Field(0, ge=0, description=description)
    return str, Field("", description=description)


_search_fields: dict[str, Any] = {
    name: _as_built_or(field, kinds)
    for part, kinds in _KINDS_OF.items()
    for name, field in search_time_fields(part)
}
_SearchFields: Any = create_model("_SearchFields", __base__=Section, **_search_fields)


class SearchConfig(_SearchFields):
    """How to search retriever.index, where this differs from the build. 0 or empty: as built."""

    def given(self) -> dict[str, object]:
        """The settings that differ from the build."""
        return {name: value for name, value in self if value}
