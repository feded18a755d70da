"""Searching an index directory.

DIR/manifest.json          kind, passages, corpus, parameters, encoder, files with digests
DIR/passages.jsonl, offsets.npy  the passages, by position
DIR/*.index.npy, *.index.json    BM25 (the files of bm25s)
DIR/vectors.faiss, rescore.npy   dense
DIR/encoder.onnx                 dense: the encoder of encoder_backend onnx or onnx-int8
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.dense.encoder import EXPORTED_NAME, encoder_digest
from tspo_cli.retrieval.manifest import (
    check_files,
    check_sizes,
    index_digest,
    read_manifest,
    vector_files,
)
from tspo_cli.retrieval.passages import PASSAGES_NAME, PassageStore
from tspo_cli.retrieval.ranking import Ranked, Ranker
from tspo_cli.retrieval.search_settings import (
    IndexSettings,
    built_settings,
    changed_results,
    for_search,
)
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult, query_problem
from tspo_cli.steady_folders import steady


class Searcher:
    """An opened index: a Retriever in this process.

    Attributes:
        manifest: the description of the index.
        search_settings: the settings that make the results differ from those of the index as built
            (`changed_results`).
        reranker_digest: of the files of the reranker, empty without any.
    """

    blocking = False

    def __init__(
        self,
        manifest: dict[str, Any],
        store: PassageStore,
        ranker: Ranker,
        search_settings: dict[str, Any],
        reranker_digest: str = "",
    ) -> None:
        self.manifest = manifest
        self.search_settings = search_settings
        self.reranker_digest = reranker_digest
        self._store = store
        self._ranker = ranker

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query by falling score; `ties` orders equal scores.

        A query that is empty or too long, or whose passage is damaged on disk, gets an error; the
        other queries are answered. Lone surrogates become question marks, as over HTTP.

        Raises:
            InvalidInputError: `k` is below 1, or the index is damaged.
        """
        if k < 1:
            raise InvalidInputError(f"k: expected 1 or more, got {k}")
        problems = [query_problem(query) for query in queries]
        valid = [
            query.encode("utf-8", "replace").decode()
            for query, problem in zip(queries, problems, strict=True)
            if problem is None
        ]
        ranked = iter(self._ranker.rank(valid, k) if valid else [])
        return [
            self._result(next(ranked)) if problem is None else SearchResult(error=problem)
            for problem in problems
        ]

    def _result(self, ranked: Ranked) -> SearchResult:
        try:
            return SearchResult(
                tuple(Hit(*self._store[position], score) for position, score in ranked)
            )
        except InvalidInputError as error:
            return SearchResult(error=str(error))

    def __len__(self) -> int:
        """Passages in the index."""
        return len(self._store)

    def describe(self) -> RetrieverInfo:
        """The facts of the manifest, and how the search differs from the build."""
        return RetrieverInfo(
            kind=self.manifest["kind"],
            passages=self.manifest["passages"],
            index_digest=index_digest(self.manifest),
            corpus_digest=self.manifest["corpus"]["sha256"],
            encoder=PurePath(self.manifest["encoder"]).name or None,
            parameters=self.manifest["parameters"],
            search=self.search_settings,
            reranker_digest=self.reranker_digest,
        )

    def passages(self) -> Iterator[tuple[str, str]]:
        """(id, contents) of every passage, in the order of the corpus."""
        return (self._store[position] for position in range(len(self._store)))

    def sample(self, count: int) -> list[str]:
        """The contents of at most `count` passages, evenly over the corpus."""
        return self._store.sample(count)


def open_index(path: Path, settings: Mapping[str, object] | None = None) -> Searcher:
    """Open an index directory for searching.

    Files up to 64 MiB are checked against their digests, larger ones by size and structure (`tspo
    index verify` reads them whole). Every passage is checked when it is fetched.

    Args:
        settings: search settings that differ from the build (`search_time_names`), such as nprobe
            or reranker.

    Raises:
        MissingResourceError: there is no such directory, or no such encoder.
        InvalidInputError: not an index; an index of another format version; a file is missing, cut
            or changed; the encoder differs from the one of the build; or a setting cannot be
            changed after the build.
    """
    return steady(path, lambda: _open(path, settings or {}))


def _open(path: Path, settings: Mapping[str, object]) -> Searcher:
    manifest = read_manifest(path)
    kind = manifest["kind"]
    built = built_settings(kind, manifest["parameters"])
    chosen = for_search(built, kind, settings)
    check_files(path, manifest)
    store = open_passages(path, manifest)
    ranker = _ranker(path, manifest, store, chosen)
    reranker = ""
    if chosen.rerank.reranker:
        from tspo_cli.retrieval.index.hybrid import RerankRanker

        device = chosen.dense.device if chosen.dense is not None else "auto"
        ranker = RerankRanker(ranker, store, chosen.rerank, device)
        reranker = encoder_digest(chosen.rerank.reranker) or ""
    return Searcher(manifest, store, ranker, changed_results(built, chosen), reranker)


def described_index(path: Path) -> dict[str, Any]:
    """The manifest of an index whose files are there with their sizes, as many passages as it says,
    and settings that it can have. Contents are not read.

    Raises:
        MissingResourceError, InvalidInputError: as `open_index`.
    """
    manifest = read_manifest(path)
    built_settings(manifest["kind"], manifest["parameters"])
    check_sizes(path, manifest)
    open_passages(path, manifest)
    return manifest


def open_passages(path: Path, manifest: dict[str, Any]) -> PassageStore:
    """The passages of an index. Raises InvalidInputError if they are not as many as it says."""
    store = PassageStore(path, path / manifest.get("lines", PASSAGES_NAME))
    if len(store) != manifest["passages"]:
        raise InvalidInputError(
            f"{path}: expected {counted(manifest['passages'], 'passage')}, got {len(store):,}; "
            "build it again"
        )
    return store


def _ranker(
    path: Path, manifest: dict[str, Any], store: PassageStore, settings: IndexSettings
) -> Ranker:
    rankers: list[Ranker] = []
    if settings.bm25 is not None:
        from tspo_cli.retrieval.bm25.bm25_ranker import Bm25Ranker

        id_of = store.id if settings.ties.ties == "id" else None
        rankers.append(Bm25Ranker(path, len(store), settings.bm25, id_of))
    if settings.dense is not None:
        from tspo_cli.retrieval.dense.dense_ranker import DenseRanker, VectorIndex

        _check_encoder(manifest)
        index = VectorIndex(*vector_files(path, manifest), settings.dense)
        exported = _exported(path, manifest, settings.dense)
        rankers.append(
            DenseRanker(index, len(store), manifest["encoder"], settings.dense, exported)
        )
    if settings.fusion is None:
        return rankers[0]
    from tspo_cli.retrieval.index.hybrid import HybridRanker

    return HybridRanker(rankers, settings.fusion)


def _exported(path: Path, manifest: dict[str, Any], settings: DenseSettings) -> Path | None:
    same = manifest["parameters"].get("encoder_backend") == settings.encoder_backend
    return path / EXPORTED_NAME if same and EXPORTED_NAME in manifest["files"] else None


def _check_encoder(manifest: dict[str, Any]) -> None:
    expected = manifest.get("encoder_sha256")
    got = encoder_digest(manifest["encoder"])
    if expected and got and got != expected:
        raise InvalidInputError(
            f"encoder {manifest['encoder']}: its files are not those that built the index (sha256 "
            f"{expected[:12]}, now {got[:12]}); restore them or build the index again"
        )
