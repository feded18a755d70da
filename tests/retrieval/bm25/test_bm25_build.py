"""The streamed BM25 build against bm25s's own, and its options."""

from __future__ import annotations

import json
from pathlib import Path

import bm25s
import numpy as np
import pytest

import tspo_cli.retrieval.bm25.bm25_build as build
from tspo_cli.config.sections.index_settings import Bm25Settings
from tspo_cli.retrieval.bm25.bm25_ranker import tokens
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index

WORDS = (
    "river",
    "violin",
    "planet",
    "bread",
    "castle",
    "running",
    "whales",
    "engine",
    "lake",
    "moon",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("bm25") / "corpus.jsonl"
    with open(path, "w") as handle:
        for number in range(300):
            text = " ".join(random.choice(WORDS, random.integers(0, 25)))
            handle.write(json.dumps({"id": str(number), "contents": f'"T{number}"\n{text}'}) + "\n")
    return path


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire"])
@pytest.mark.parametrize("block", [1, 100, 10**9])
def test_the_files_are_those_of_bm25s(
    method: str, block: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_BLOCK_WORDS", block)
    build_index(corpus, tmp_path / "ours", settings={"method": method, "k1": 0.9, "b": 0.4})
    vocabulary: dict[str, int] = {}
    contents = [json.loads(line)["contents"] for line in corpus.read_text().splitlines()]
    ids = [
        [vocabulary.setdefault(word, len(vocabulary)) for word in tokens(text)] for text in contents
    ]
    index = bm25s.BM25(method=method, k1=0.9, b=0.4)
    index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    index.save(tmp_path / "theirs", show_progress=False)
    for name in ("data", "indices", "indptr"):
        file = f"{name}.csc.index.npy"
        assert (tmp_path / "ours" / file).read_bytes() == (
            tmp_path / "theirs" / file
        ).read_bytes(), file
    for file in ("vocab.index.json", "params.index.json"):
        ours, theirs = (
            json.loads((tmp_path / folder / file).read_text()) for folder in ("ours", "theirs")
        )
        assert ours == theirs


def test_stemming_and_stop_words_count_in_the_query_as_in_the_passages(
    corpus: Path, tmp_path: Path
) -> None:
    pytest.importorskip("Stemmer", reason="needs PyStemmer")
    stemmed = Bm25Settings(stop_words="none", stemmer="english")
    assert tokens("The running whales", stemmed) == [
        "the",
        "run",
        "whale",
    ]
    assert tokens("do the whales", Bm25Settings(stop_words="english")) == ["do", "whales"]
    build_index(corpus, tmp_path / "stemmed", settings={"stemmer": "english"})
    build_index(corpus, tmp_path / "plain")
    stemmed, plain = open_index(tmp_path / "stemmed"), open_index(tmp_path / "plain")
    assert plain.search(["a whale runs"], 5)[0].hits == ()
    assert [hit.id for hit in stemmed.search(["a whale runs"], 5)[0].hits] == [
        hit.id for hit in plain.search(["whales running"], 5)[0].hits
    ]
