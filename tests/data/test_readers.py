"""Every form of questions and passages that can be read, and every way in which a record can be
wrong.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from tspo_cli.data.formats.record_checks import SeenIds
from tspo_cli.data.question import Passage, Question
from tspo_cli.data.readers import default_data_source, read_passages, read_questions, resolve_data
from tspo_cli.data.rows import count_rows
from tspo_cli.errors import InvalidInputError, MissingResourceError

QUESTION = {"id": "q1", "question": "Who?", "golden_answers": ["Ada"]}
SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")


def write(path: Path, *records: Any) -> Path:
    """Records as JSONL; strings are lines as they are."""
    lines = "".join(
        (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)) + "\n"
        for record in records
    )
    payload = lines.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(payload) if path.suffix == ".gz" else payload)
    return path


def error_of(call: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz", "corpus.gz.wrongly.named"])
def test_passages_of_both_forms(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name,
        {"id": "a", "contents": '"Rome"\nCapital of\nItaly.'},
        {"id": 2, "title": "Röntgen", "text": "Physicist."},
        "",
        {"id": "c", "contents": '""\nNo title.'},
        {"id": "d", "contents": "One line alone"},
        {"id": "e", "contents": '"A "B" C"\ntext'},
        {"id": "f", "title": None, "text": "x"},
    )
    assert list(read_passages(path)) == [
        Passage("a", "Rome", "Capital of\nItaly."),
        Passage("2", "Röntgen", "Physicist."),
        Passage("c", "", "No title."),
        Passage("d", "", "One line alone"),
        Passage("e", 'A "B" C', "text"),
        Passage("f", "", "x"),
    ]
    assert count_rows(path) == 6


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "x"}, 'expected "contents", or "title" and "text"'),
        ({"id": "x", "text": 7}, "a field of another type"),
        ({"id": "x", "passage": "a", "body": "b"}, "one text, got fields passage and body"),
        ({"id": "x", "title": 3, "text": "t"}, "a field of another type"),
        ({"id": "x", "title": "a\nb", "text": "t"}, '"title" on one line'),
        ({"id": "x", "contents": ["a"]}, '"contents" to be a string, got a list'),
        ({"contents": "a"}, '"id" to be a string or a whole number, got null'),
        ({"id": 1.5, "contents": "a"}, "got a number"),
        ({"id": True, "contents": "a"}, "got a boolean"),
        ({"id": "", "contents": "a"}, "got an empty string"),
        ("[1]", "one JSON object per line, got a list"),
        ('{"id": ', "one JSON object per line"),
        ({"id": "a", "contents": "again"}, "ids that differ, got 'a' as on line 1"),
    ],
)
def test_bad_passages_name_file_and_line(tmp_path: Path, record: Any, message: str) -> None:
    path = write(tmp_path / "c.jsonl", {"id": "a", "contents": "one"}, "", record)
    text = error_of(lambda: list(read_passages(path)))
    assert text.startswith(f"{path}:3: ")
    assert message in text
    assert "; fix: " in text


def test_files_that_are_damaged_empty_or_absent(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps({"id": "a", "contents": "x" * 999}).encode())
    (tmp_path / "torn.jsonl.gz").write_bytes(whole[:-12])
    assert "intact gzip data" in error_of(lambda: list(read_passages(tmp_path / "torn.jsonl.gz")))
    (tmp_path / "latin.jsonl").write_bytes('{"id": "a"}\n{"id": "\xe9"}\n'.encode("latin-1"))
    assert ":1: " in error_of(lambda: list(read_passages(tmp_path / "latin.jsonl")))
    (tmp_path / "latin2.jsonl").write_bytes('{"id": "\xe9"}\n'.encode("latin-1"))
    assert "UTF-8" in error_of(lambda: list(read_passages(tmp_path / "latin2.jsonl")))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    assert "intact parquet file" in error_of(lambda: list(read_passages(tmp_path / "torn.parquet")))
    assert "intact parquet file" in error_of(lambda: count_rows(tmp_path / "torn.parquet"))
    assert "empty file" in error_of(
        lambda: list(read_passages(write(tmp_path / "empty.jsonl", "")))
    )
    assert "answer, got none" in error_of(lambda: read_questions(write(tmp_path / "empty.jsonl")))
    with pytest.raises(MissingResourceError, match="no such file"):
        read_passages(tmp_path / "absent.jsonl")
    with pytest.raises(InvalidInputError, match="got a directory"):
        read_questions(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(QUESTION).encode())
    assert read_questions(tmp_path / "q.jsonl")[0].id == "q1"


def test_our_own_questions(tmp_path: Path) -> None:
    own = QUESTION | {
        "data_source": "nq",
        "supporting_ids": ["p1", 7],
        "gold_kind": "positive",
        "type": "bridge",
    }
    question = read_questions(write(tmp_path / "x.jsonl.gz", own | {"level": "hard"}))[0]
    assert question == Question("q1", "Who?", ("Ada",), "nq", ("p1", "7"), "positive", "bridge")
    assert question.extra == {"level": "hard"}


def test_flashrag_questions(tmp_path: Path) -> None:
    record = QUESTION | {
        "golden_answers": ["Ada", "A. L."],
        "metadata": {"type": "comparison", "level": "easy"},
    }
    question = read_questions(write(tmp_path / "hotpotqa" / "dev.jsonl", record))[0]
    assert question == Question("q1", "Who?", ("Ada", "A. L."), "hotpotqa", type="comparison")
    assert question.extra["metadata"]["level"] == "easy"


def search_r1(number: int, answers: list[str]) -> dict[str, Any]:
    return {
        "id": f"test_{number}",
        "question": f"Who is {number}?",
        "golden_answers": answers,
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "Answer the given question."}],
        "ability": "fact-reasoning",
        "reward_model": {"ground_truth": {"target": answers}, "style": "rule"},
        "extra_info": {"index": number, "split": "test"},
    }


def test_search_r1_parquet(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    pandas.DataFrame([search_r1(1, ["Ada"]), search_r1(2, ["Bob", "Robert"])]).to_parquet(path)
    assert read_questions(path) == [
        Question("test_1", "Who is 1?", ("Ada",), "nq"),
        Question("test_2", "Who is 2?", ("Bob", "Robert"), "nq"),
    ]
    assert read_questions(path)[0].extra["prompt"][0]["role"] == "user"
    assert count_rows(path) == 2


def test_verl_parquet_without_id_question_and_answers_of_its_own(tmp_path: Path) -> None:
    record = {
        "data_source": "searchR1_nq",
        "reward_model": {"ground_truth": {"target": ["Ada"]}},
        "extra_info": {"index": 5, "split": "train", "question": "Who?"},
    }
    path = tmp_path / "train.parquet"
    pandas.DataFrame([record]).to_parquet(path)
    assert read_questions(path) == [Question("train_5", "Who?", ("Ada",), "nq")]


def test_bad_parquet_rows_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    pandas.DataFrame([search_r1(1, ["Ada"]), search_r1(1, ["Bob"])]).to_parquet(path)
    assert error_of(lambda: read_questions(path)).startswith(f"{path}:2: expected ids that differ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, '"question" to be a string, got null'),
        ({"question": " "}, '"question" is empty'),
        ({"question": ""}, '"question" is empty'),
        ({"golden_answers": []}, '"golden_answers" to hold an answer, got none'),
        ({"golden_answers": [" "]}, '"golden_answers" to hold an answer'),
        ({"golden_answers": None}, '"golden_answers" to hold an answer'),
        ({"golden_answers": ["a", 1]}, "got a number in it"),
        ({"golden_answers": {"a": 1}}, "got an object"),
        ({"gold_kind": "some"}, '"gold_kind" to be one of full, positive, none'),
        ({"supporting_ids": "p1"}, '"supporting_ids" to be a list'),
        ({"supporting_ids": [1.5]}, '"supporting_ids" to be a string or a whole number'),
        ({"data_source": 3}, '"data_source" to be a string'),
        ({"type": ["x"]}, '"type" to be a string'),
        ({"id": None}, '"id" to be a string'),
        ({"id": "first", "type": "x"}, "ids that differ, got 'first' as on line 1"),
    ],
)
def test_bad_questions_name_file_and_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "q.jsonl", QUESTION | {"id": "first"}, QUESTION | change)
    text = error_of(lambda: read_questions(path))
    assert text.startswith(f"{path}:2: ")
    assert message in text


def test_the_same_id_in_two_data_sources_is_two_questions(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.jsonl",
        QUESTION | {"data_source": "nq"},
        QUESTION | {"data_source": "hotpotqa"},
    )
    assert len(read_questions(path)) == 2


def test_one_answer_may_stand_without_a_list(tmp_path: Path) -> None:
    assert read_questions(write(tmp_path / "q.jsonl", QUESTION | {"golden_answers": "Ada"}))[
        0
    ].golden_answers == ("Ada",)


def test_limit_stops_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", QUESTION, "not JSON")
    assert len(read_questions(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("nq.jsonl.gz", "nq"),
        ("nq/test.parquet", "nq"),
        ("nq/questions.jsonl", "nq"),
        ("popqa/long_tail.jsonl", "long_tail"),
        ("popqa/tail.v2.jsonl", "tail.v2"),
        ("popqa/tail.v2.CSV.GZ", "tail.v2"),
        ("popqa/dev.v2.jsonl.gz", "popqa"),
    ],
)
def test_default_data_source(path: str, name: str) -> None:
    assert default_data_source(Path("/sets") / path) == name


def test_names_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (here / "data").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("TSPO_DATA", str(elsewhere))
    mine = write(Path("data/mine/questions.jsonl"), QUESTION)
    nq = write(elsewhere / "nq" / "questions.jsonl.gz", QUESTION)
    other = write(elsewhere / "odd" / "corpus.jsonl", QUESTION)
    assert resolve_data("mine") == mine
    assert resolve_data("nq") == nq
    assert resolve_data(str(nq)) == nq
    assert resolve_data(str(nq.parent)) == nq
    with pytest.raises(MissingResourceError, match="did you mean mine"):
        resolve_data("mien")
    with pytest.raises(MissingResourceError, match=r"it holds corpus\.jsonl"):
        resolve_data(str(other.parent))
    with pytest.raises(MissingResourceError, match="TSPO_DATA"):
        resolve_data("zzz")


def test_ids_are_remembered_in_every_order() -> None:
    ids = ["5", "6", "x", "8", "7", "7", "05", "5", "x", "8"]
    seen, first = SeenIds(), {}
    for number, identifier in enumerate(ids, start=1):
        assert seen.first_line(identifier, number) == first.get(identifier)
        first.setdefault(identifier, number)


@pytest.mark.parametrize("name", SETS)
def test_real_sets_are_read_whole(real_data: Path, name: str) -> None:
    questions = read_questions(real_data / name / "questions.jsonl.gz")
    passages = {passage.id for passage in read_passages(real_data / name / "corpus.jsonl.gz")}
    assert len(questions) > 50
    assert {question.data_source for question in questions} == {name}
    assert all(set(question.supporting_ids) <= passages for question in questions)
