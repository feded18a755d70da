"""One corpus in parts on several real servers: merged answers beside those of the whole index."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Finished
from tests.retrieval.server.live_server import serving
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import RetrieverConfig
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import Searcher, open_index
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.retrieval.remote.fanout import ShardedRetriever, merge
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.types import Hit, Retriever, RetrieverInfo, SearchResult

WORDS = ("lake", "hill", "town", "north", "river", "stone", "bridge", "tower")


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=4), st.integers(1, 10)
)
def test_the_merge_is_the_top_k_of_everything(scores: list[list[int]], k: int) -> None:
    """Shards that are consecutive parts give the order of the whole: falling score, then
    position.
    """
    everything = [
        Hit(f"{part}-{at}", "", float(score))
        for part, row in enumerate(scores)
        for at, score in enumerate(row)
    ]
    parts = [
        SearchResult(
            tuple(
                sorted(
                    (hit for hit in everything if hit.id.startswith(f"{part}-")),
                    key=lambda h: -h.score,
                )[:k]
            )
        )
        for part in range(len(scores))
    ]
    assert merge(parts, k).hits == tuple(sorted(everything, key=lambda hit: -hit.score)[:k])


def test_one_failed_shard_fails_the_query() -> None:
    found = SearchResult((Hit("1", "a", 1.0),))
    assert merge([found, SearchResult(error="down")], 3) == SearchResult(error="down")


class Cosine:
    """A small dense index: a passage's score depends on the query and the passage alone."""

    blocking = False

    def __init__(self, ids: Sequence[int], part: str, **facts: Any) -> None:
        self.ids = ids
        facts = {"kind": "dense", "encoder": "e5", "parameters": {}, **facts}
        self.info = RetrieverInfo(passages=len(ids), index_digest=part, **facts)

    def describe(self) -> RetrieverInfo:
        return self.info

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        return [self._one(query, k) for query in queries]

    def _one(self, query: str, k: int) -> SearchResult:
        score = {at: random.Random(f"{query}|{at % 97}").random() for at in self.ids}
        best = sorted(self.ids, key=lambda at: (-score[at], at))[:k]
        return SearchResult(tuple(Hit(str(at), f'"T"\n{at}', score[at]) for at in best))


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_dense_shards_answer_as_the_whole(servers: ExitStack) -> None:
    whole = Cosine(range(300), "whole")  # every score three times: ties across the shards
    cuts = [(0, 90), (90, 110), (110, 300)]
    urls = [servers.enter_context(serving(Cosine(range(*cut), str(cut)))) for cut in cuts]
    config = load_config(
        [], [f"retriever.url={','.join(urls)}", "retriever.servers=shards"]
    ).retriever
    assert config.url == urls
    retriever = open_retriever(config)
    assert isinstance(retriever, ShardedRetriever)
    queries = [f"query {at}" for at in range(40)]
    for k in (1, 3, 25, 100):
        assert retriever.search(queries, k) == whole.search(queries, k)
    assert retriever.search([], 3) == []
    retriever.close()


def test_shards_that_do_not_fit_together_are_refused(servers: ExitStack, tmp_path: Path) -> None:
    def open_shards(*retrievers: Cosine | Searcher, approximate: bool = False) -> Retriever:
        urls = [servers.enter_context(serving(retriever)) for retriever in retrievers]
        opened = open_retriever(
            RetrieverConfig(url=urls, servers="shards", approximate_shards=approximate)
        )
        assert opened is not None
        return opened

    first = Cosine(range(10), "first")
    with pytest.raises(InvalidInputError, match=r"has encoder e5 and .* has bge"):
        open_shards(first, Cosine(range(10, 20), "second", encoder="bge"))
    with pytest.raises(InvalidInputError, match="serve the same passages"):
        open_shards(first, Cosine(range(10), "first"))
    shards = open_shards(first, Cosine(range(10, 25), "second"))
    assert shards.describe() == RetrieverInfo(
        kind="dense", passages=25, encoder="e5", parameters={}, search={}
    )
    bm25 = [_bm25(tmp_path / name, cut) for name, cut in (("a", range(50)), ("b", range(50, 100)))]
    with pytest.raises(InvalidInputError, match="every part has its own word statistics"):
        open_shards(*bm25)
    open_shards(*bm25, approximate=True)
    learnt = [
        Cosine(cut, part, parameters={"factory": "IVF16,PQ8"})
        for part, cut in (("p", range(5)), ("q", range(5, 9)))
    ]
    with pytest.raises(InvalidInputError, match="every part has its own codes; build with rescore"):
        open_shards(*learnt)
    open_shards(
        *[
            Cosine(shard.ids, part, parameters={"factory": "SQ8", "rescore": "float16"})
            for part, shard in zip("pq", learnt, strict=True)
        ]
    )


def test_a_shard_that_is_down_is_named(servers: ExitStack) -> None:
    up = servers.enter_context(serving(Cosine(range(10), "up")))
    with serving(Cosine(range(10, 20), "down")) as down:
        shards = ShardedRetriever([HttpRetriever([url], retries=0) for url in (up, down)])
        shards.check()
    with pytest.raises(RemoteServiceError, match=down):
        shards.search(["q"], 3)
    with pytest.raises(RemoteServiceError, match="is the server running"):
        shards.check()


def _passages(ids: Sequence[int]) -> str:
    draw = random.Random(0)
    texts = {at: " ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for at in range(100)}
    return "".join(
        json.dumps({"id": f"p{at}", "contents": f'"T{at}"\n{texts[at]}'}) + "\n" for at in ids
    )


def _bm25(folder: Path, ids: Sequence[int]) -> Searcher:
    folder.mkdir()
    (folder / "corpus.jsonl").write_text(_passages(ids))
    build_index(folder / "corpus.jsonl", folder / "index")
    return open_index(folder / "index")


def test_bm25_shards_are_approximate(servers: ExitStack, tmp_path: Path) -> None:
    """Their scores differ from the whole's, which is why they are refused by default; the passages
    overlap.
    """
    whole = _bm25(tmp_path / "whole", range(100))
    parts = [_bm25(tmp_path / name, cut) for name, cut in (("a", range(50)), ("b", range(50, 100)))]
    urls = [servers.enter_context(serving(part)) for part in parts]
    shards = ShardedRetriever([HttpRetriever([url]) for url in urls], approximate=True)
    shards.check()
    ours, theirs = (
        shards.search(["bridge tower"], 10)[0].hits,
        whole.search(["bridge tower"], 10)[0].hits,
    )
    assert [hit.score for hit in ours] != [hit.score for hit in theirs]
    assert len({hit.id for hit in ours} & {hit.id for hit in theirs}) >= 5


def test_eval_takes_replicas_with_commas(
    servers: ExitStack, playground, tspo, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """Through the command, with the answers of the index in this process."""
    searcher = open_index(playground.index)
    urls = ",".join(servers.enter_context(serving(searcher)) for _ in range(2))
    common = [
        playground.model,
        "--data",
        playground.world / "test.jsonl",
        "--limit",
        4,
        "--method",
        "rag",
        "--json",
    ]
    remote: Finished = tspo("eval", *common, "--retriever", urls, "--out", tmp_path / "remote")
    local: Finished = tspo(
        "eval", *common, "--index", playground.index, "--out", tmp_path / "local"
    )
    (theirs,), (ours,) = (json.loads(done.out)["results"] for done in (remote, local))
    # What only an index in this process can tell: its corpus, and the digests of both.
    apart = {"ceiling", "signature", "digests", "latency"}
    assert {key: theirs[key] for key in theirs.keys() - apart} == {
        key: ours[key] for key in ours.keys() - apart
    }
