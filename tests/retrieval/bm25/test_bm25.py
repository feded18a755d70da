"""BM25 against reference rankings on real questions, and against the formula."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.config.sections.index_settings import Bm25Settings
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.bm25.bm25_ranker import LUCENE_STOP_WORDS, tokens
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.ranking import top_k, top_positive

SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")


def _records(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


@pytest.mark.parametrize("name", SETS)
def test_top_ten_equals_the_reference_on_every_real_question(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / name
    # The reference breaks ties by ascending id, an index by ascending position: they agree on a
    # corpus sorted by id.
    passages = sorted(_records(folder / "corpus.jsonl.gz"), key=lambda passage: str(passage["id"]))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    build_index(corpus, tmp_path / "index")
    questions = {
        record["id"]: record["question"] for record in _records(folder / "questions.jsonl.gz")
    }
    reference = {
        record["id"]: record["top10"] for record in _records(folder / "bm25_top10.nostem.jsonl.gz")
    }
    assert reference.keys() == questions.keys()
    results = open_index(tmp_path / "index").search([questions[name] for name in reference], 10)
    for (question, expected), result in zip(reference.items(), results, strict=True):
        # The reference fills up with passages that score zero, which are no hits.
        assert [hit.id for hit in result.hits] == expected[: len(result.hits)], question
        assert len(result.hits) == len(expected) or len(result.hits) < 10


def _corpus(path: Path, texts: list[str]) -> Path:
    path.write_text(
        "".join(
            json.dumps({"id": f"p{i}", "contents": text}) + "\n" for i, text in enumerate(texts)
        )
    )
    return path


TEXTS = [
    '"Lakes"\nThe blue lake lies north',
    '"Hills"\nBlue hills, blue sky',
    '"Towns"\nA town by the lake',
    '"X"\nx',
]


def test_scores_follow_the_lucene_formula(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus.jsonl", TEXTS)
    build_index(corpus, tmp_path / "index", settings={"k1": "1.2", "b": "0.5"})
    query = ["blue", "lake", "blue"]
    documents = [Counter(tokens(text)) for text in TEXTS]
    average = sum(sum(document.values()) for document in documents) / len(documents)

    def score(document: Counter[str]) -> float:
        total = 0.0
        for word in query:
            frequency = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            tf = document[word]
            total += idf * tf / (tf + 1.2 * (1 - 0.5 + 0.5 * sum(document.values()) / average))
        return total

    expected = sorted(
        ((score(document), f"p{i}") for i, document in enumerate(documents)), reverse=True
    )
    hits = open_index(tmp_path / "index").search([" ".join(query)], 4)[0].hits
    assert [hit.id for hit in hits] == [passage for value, passage in expected if value > 0]
    assert [hit.score for hit in hits] == pytest.approx(
        [value for value, _ in expected if value > 0], rel=1e-5
    )


def test_tokens_are_lower_case_words_of_two_letters_without_stop_words() -> None:
    assert tokens("The U.S. café-Bar, a 7 42 x") == ["café", "bar", "42"]
    assert tokens("the lake", Bm25Settings(stop_words="none")) == ["the", "lake"]
    assert len(LUCENE_STOP_WORDS) == 33


def test_queries_without_known_words_have_no_hits(tmp_path: Path) -> None:
    build_index(_corpus(tmp_path / "corpus.jsonl", TEXTS), tmp_path / "index")
    results = open_index(tmp_path / "index").search(["zebra", "the of", "lake zebra"], 3)
    assert [[hit.id for hit in result.hits] for result in results] == [[], [], ["p2", "p0"]]
    assert all(result.error is None for result in results)


def test_equal_scores_come_in_corpus_order(tmp_path: Path) -> None:
    build_index(
        _corpus(tmp_path / "corpus.jsonl", ['"A"\nsame words here'] * 50), tmp_path / "index"
    )
    hits = open_index(tmp_path / "index").search(["words"], 7)[0].hits
    assert [hit.id for hit in hits] == [f"p{i}" for i in range(7)]


def test_equal_scores_come_by_id_where_the_search_says_so(tmp_path: Path) -> None:
    build_index(
        _corpus(tmp_path / "corpus.jsonl", ['"A"\nsame words here'] * 50), tmp_path / "index"
    )
    searcher = open_index(tmp_path / "index", {"ties": "id"})
    hits = searcher.search(["words"], 7)[0].hits
    assert [hit.id for hit in hits] == sorted(f"p{i}" for i in range(50))[:7]
    assert searcher.search_settings == {"ties": "id"}
    assert open_index(tmp_path / "index").search_settings == {}


def test_a_corpus_without_words_is_refused(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus.jsonl", ['""\n!'])
    with pytest.raises(InvalidInputError, match="no passage holds a searchable word"):
        build_index(corpus, tmp_path / "index")
    assert not (tmp_path / "index").exists()


@given(st.lists(st.integers(-3, 3), max_size=60), st.integers(1, 70))
def test_top_k_is_the_stable_order_of_everything_cut_at_k(values: list[int], k: int) -> None:
    scores = np.array(values, np.float32)
    got = top_k(scores, np.arange(len(values)), k)
    assert got == sorted(enumerate(map(float, values)), key=lambda pair: (-pair[1], pair[0]))[:k]


@given(st.lists(st.integers(-3, 9), max_size=400), st.integers(1, 5), st.booleans())
def test_top_positive_is_the_whole_order_of_what_is_above_zero(
    values: list[int], k: int, by_id: bool
) -> None:
    def id_of(position: int) -> str:
        return str(position)

    ranked = [(at, float(value)) for at, value in enumerate(values) if value > 0]
    ranked.sort(key=lambda pair: (-pair[1], id_of(pair[0]) if by_id else pair[0]))
    assert top_positive(np.array(values, np.float32), k, id_of if by_id else None) == ranked[:k]


@given(
    st.lists(st.sampled_from(["lake", "hill", "lake hill", "sea"]), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_a_smaller_k_gives_the_beginning_of_a_larger_one(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], k: int
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    build_index(
        _corpus(folder / "corpus.jsonl", [f'"T"\n{text}' for text in texts]), folder / "index"
    )
    searcher = open_index(folder / "index")
    assert (
        searcher.search(["lake hill"], k)[0].hits
        == searcher.search(["lake hill"], len(texts))[0].hits[:k]
    )
