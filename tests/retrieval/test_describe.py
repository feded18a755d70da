"""What a retriever says of itself, and the signature that an evaluation makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.retrieval.server.live_server import serving, small_searcher
from tspo_cli.config.load_config import load_config
from tspo_cli.evaluation.signature import retriever_digests
from tspo_cli.retrieval.manifest import index_digest
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.types import RetrieverInfo, SearchResult, query_problem

MANIFEST = {
    "format": "tspo-index",
    "version": 1,
    "kind": "dense",
    "passages": 3,
    "corpus": {"path": "/a/corpus.jsonl", "sha256": "c" * 64},
    "parameters": {"factory": "Flat", "k1": 1.5},
    "encoder": "e5",
    "encoder_sha256": None,
    "files": {"passages.jsonl": {"bytes": 1, "sha256": "d" * 64}},
}


@dataclass
class Described:
    """A retriever that only describes itself."""

    info: RetrieverInfo
    blocking: bool = False

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        return [SearchResult() for _ in queries]

    def describe(self) -> RetrieverInfo:
        return self.info


def test_the_signature_of_an_index_is_the_same_in_every_version() -> None:
    """Version 0.1.0 computed these digests; an evaluation made then is not made again."""
    config = load_config([])
    info = RetrieverInfo(
        index_digest=index_digest(MANIFEST),
        corpus_digest="c" * 64,
        search={"nprobe": 4, "ties": "id"},
    )
    digests = retriever_digests(Described(info), config)
    assert list(digests.items()) == [
        ("index", "7aaf0919e365"),
        ("corpus", "cccccccccccc"),
        ("search", "d348e58a85fa"),
    ]
    assert retriever_digests(None, config) == {}


def test_a_retriever_without_a_digest_is_signed_by_its_address() -> None:
    config = load_config([], ["retriever.url=http://a:1,http://b:2"])
    described = Described(RetrieverInfo(kind="dense", search={"nprobe": 4}))
    assert retriever_digests(described, config) == {"retriever": "http://a:1,http://b:2"}
    config = load_config(
        [], ["retriever.qdrant.url=http://q:6333", "retriever.qdrant.collection=wiki"]
    )
    plain, asked, told = (
        Described(RetrieverInfo(kind="dense", search=search))
        for search in ({}, {"query_prefix": "query: "}, {"query_prefix": "query:"})
    )
    assert retriever_digests(plain, config) == {"retriever": "http://q:6333/wiki"}
    digests = [retriever_digests(described, config) for described in (asked, told)]
    assert all(found["retriever"] == "http://q:6333/wiki" for found in digests)
    assert digests[0]["search"] != digests[1]["search"]


def test_an_index_and_its_server_describe_the_same(tmp_path: Path) -> None:
    searcher = small_searcher(tmp_path)
    info = searcher.describe()
    assert (info.kind, info.passages, info.encoder, info.search) == ("bm25", 3, None, {})
    assert info.parameters == searcher.manifest["parameters"]
    with serving(searcher) as url:
        served = HttpRetriever([url], timeout=20, retries=0).describe()
    for name in ("kind", "passages", "encoder", "parameters", "search", "index_digest"):
        assert getattr(served, name) == getattr(info, name), name
    assert HttpRetriever(["http://127.0.0.1:9"], timeout=1).describe() == RetrieverInfo()


def test_why_a_query_cannot_be_searched_for() -> None:
    assert query_problem("x" * 32_768) is None
    assert query_problem("x" * 32_769) == "query: expected at most 32768 characters, got 32769"
    assert query_problem("abc", 2) == "query: expected at most 2 characters, got 3"
    assert query_problem(" \n") == "query: empty"
