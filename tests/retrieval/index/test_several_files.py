"""An index of several files: duplicates, chunks, the estimate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tspo_cli.data.question import Question
from tspo_cli.data.readers import read_passages
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.metrics import gold_precision, gold_recall
from tspo_cli.retrieval.index.build_index import build_index, estimate_build
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.index.verify_index import verify_index


def corpus(path: Path, **texts: str) -> Path:
    lines = [json.dumps({"_id": name, "title": name, "text": text}) for name, text in texts.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_identical_passages_are_taken_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = corpus(tmp_path / "a.jsonl", one="red kite", two="blue whale")
    second = corpus(tmp_path / "b.jsonl", two="blue whale", three="green frog", one="red kite")
    manifest = build_index([first, second], tmp_path / "index")
    assert manifest["passages"] == 3
    assert manifest["corpus"]["files"] == [str(first), str(second)]
    assert "2 passages are identical to an earlier one and were left out" in (
        capsys.readouterr().err
    )
    searcher = open_index(tmp_path / "index")
    assert [name for name, _ in searcher.passages()] == ["one", "two", "three"]
    assert verify_index(tmp_path / "index")["corpus"] == "same"
    corpus(second, three="green toad")
    with pytest.raises(InvalidInputError, match="the corpus changed"):
        verify_index(tmp_path / "index")


@pytest.mark.parametrize("order", ["aa", "aba", "aab", "aaa"])
def test_a_file_that_is_named_twice_is_taken_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], order: str
) -> None:
    files = {
        "a": corpus(tmp_path / "a.jsonl", one="red kite", two="blue whale"),
        "b": corpus(tmp_path / "b.jsonl", three="frog"),
    }
    for settings in ({}, {"chunk_tokens": "1"}):
        out = tmp_path / f"index{len(settings)}"
        build_index([files[name] for name in order], out, settings=settings)
        names = [name for name, _ in open_index(out).passages()]
        assert len(set(names)) == len(names)
        assert len({name.split("#")[0] for name in names}) == 2 + ("b" in order)
        left_out = 2 * (order.count("a") - 1)
        assert f"{left_out} passages are identical to an earlier one" in capsys.readouterr().err


def test_other_texts_under_one_id_name_both_lines_and_how_many(tmp_path: Path) -> None:
    first = corpus(tmp_path / "a.jsonl", one="red kite", two="blue whale", three="frog")
    second = corpus(tmp_path / "b.jsonl", one="red kite", two="a whale", three="toad")
    with pytest.raises(InvalidInputError) as caught:
        build_index([first, second], tmp_path / "index")
    message = str(caught.value)
    assert f"{second}:2: expected ids that differ, got 'two' as on {first}:2" in message
    assert "2 ids have different texts, 1 passage is identical" in message
    assert not (tmp_path / "index").exists()
    assert not list(tmp_path.glob(".index*"))
    assert "--skip-duplicates keeps the first of each id" in message


def test_the_first_of_each_id_is_kept_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = corpus(tmp_path / "a.jsonl", one="red kite", two="blue whale", three="frog")
    second = corpus(tmp_path / "b.jsonl", one="red kite", two="a whale", four="newt")
    third = corpus(tmp_path / "c.jsonl", two="no whale", three="frog.")
    index = tmp_path / "index"
    build_index([first, second, third], index, skip_duplicates=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "3 passages have the id of an earlier one with another text" in said
    assert "left out (2 ids)" in said
    assert "1 passage is identical" in said
    kept = [(name, text.split("\n")[1]) for name, text in open_index(index).passages()]
    assert kept == [
        ("one", "red kite"), ("two", "blue whale"), ("three", "frog"), ("four", "newt"),
    ]  # fmt: skip


WORDS = " ".join(f"w{n}" for n in range(12))  # three chunks of four words


def cut_ids(*files: Path, out: Path, skip: bool = False) -> list[str]:
    build_index(files, out, settings={"chunk_tokens": "4"}, skip_duplicates=skip)
    return [name for name, _ in open_index(out).passages()]


def test_identical_documents_are_cut_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = corpus(tmp_path / "a.jsonl", long=WORDS, short="red kite")
    second = corpus(tmp_path / "b.jsonl", short="red kite", long=WORDS)
    ids = cut_ids(first, second, out=tmp_path / "index")
    assert ids == ["long#0", "long#1", "long#2", "short"]
    said = " ".join(capsys.readouterr().err.split())
    assert "2 passages are identical to an earlier one and were left out" in said


@pytest.mark.parametrize(
    "other",
    ["red kite", f"{WORDS} w12 w13", " ".join(WORDS.split()[:8]), WORDS.replace("w0", "v0")],
)
def test_documents_with_one_id_are_compared_whole(other: str, tmp_path: Path) -> None:
    """Their chunks may have other ids, or be the same as far as they go."""
    first = corpus(tmp_path / "a.jsonl", long=WORDS)
    second = corpus(tmp_path / "b.jsonl", long=other)
    with pytest.raises(InvalidInputError, match=r"'long' as on .*--skip-duplicates"):
        cut_ids(first, second, out=tmp_path / "index")
    assert not (tmp_path / "index").exists()
    ids = cut_ids(first, second, out=tmp_path / "index", skip=True)
    assert ids == ["long#0", "long#1", "long#2"]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_part_may_not_have_the_id_of_another_document(
    skip: bool, turned: bool, tmp_path: Path
) -> None:
    files = [
        corpus(tmp_path / "a.jsonl", long=WORDS),
        corpus(tmp_path / "b.jsonl", **{"long#1": "red kite"}),
    ]
    if turned:
        files.reverse()
    with pytest.raises(InvalidInputError, match=r"'long#1' as on .*rename one; parts of a long"):
        cut_ids(*files, out=tmp_path / "index", skip=skip)
    assert not (tmp_path / "index").exists()


def test_real_corpora_are_merged(real_data: Path, tmp_path: Path) -> None:
    names = ("bamboogle", "musique")
    files = [real_data / name / "corpus.jsonl.gz" for name in names]
    manifest = build_index(files, tmp_path / "index", skip_duplicates=True)
    ids = [p.id for file in files for p in read_passages(file, distinct=False)]
    assert manifest["passages"] == len(set(ids))


def test_chunks_are_recorded_and_count_as_their_document(tmp_path: Path) -> None:
    long = " ".join(f"filler{n}" for n in range(40)) + " zanzibar"
    path = corpus(tmp_path / "c.jsonl", doc=long, short="zebra")
    settings = {"chunk_tokens": "20", "chunk_overlap": "5"}
    manifest = build_index(path, tmp_path / "index", settings=settings)
    assert manifest["parameters"]["chunk_tokens"] == 20
    again = build_index(path, tmp_path / "again", settings=settings)
    assert again == manifest
    (result,) = open_index(tmp_path / "index").search(["zanzibar"], 1)
    assert [hit.id for hit in result.hits] == ["doc#2"]
    assert result.hits[0].title == "doc"
    question = Question("q", "?", ("a",), "s", ("doc",), "full")
    assert gold_recall(question, result.hits) == 1
    assert gold_precision(question, result.hits) == 1
    assert "chunk_tokens" not in build_index(path, tmp_path / "whole")["parameters"]
    with pytest.raises(InvalidInputError, match="setting 'chunk_tokens': fixed when the index"):
        open_index(tmp_path / "whole", {"chunk_tokens": 5})
    with pytest.raises(InvalidInputError, match="chunk_overlap: expected less than chunk_tokens"):
        build_index(path, tmp_path / "x", settings={"chunk_tokens": 5, "chunk_overlap": 5})
    with pytest.raises(InvalidInputError, match="got 5; without chunk_tokens no document is cut"):
        build_index(path, tmp_path / "x", settings={"chunk_overlap": 5})


@pytest.mark.parametrize("name", ["bamboogle", "musique"])
def test_the_estimate_has_the_passages(real_data: Path, tmp_path: Path, name: str) -> None:
    path = real_data / name / "corpus.jsonl.gz"
    foreseen = estimate_build(path, kind="bm25")
    build_index(path, tmp_path / "index")
    size = sum(file.stat().st_size for file in (tmp_path / "index").iterdir())
    estimate = foreseen["passages_bytes"] + foreseen["bm25_index_bytes"]
    assert estimate == pytest.approx(size, rel=0.15)
