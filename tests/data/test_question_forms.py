"""Questions as people have them: tables, arrays, no ids, one answer or many, HotpotQA itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.data.check import check
from tspo_cli.data.convert import convert
from tspo_cli.data.readers import read_questions
from tspo_cli.errors import InvalidInputError

ROWS = [{"question": "Who, then?", "answer": "Ada"}, {"question": "Where?", "answer": "Lund"}]


def jsonl(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dev.json", json.dumps(ROWS, indent=1)),
        ("dev.csv", 'question,answer\n"Who, then?",Ada\nWhere?,Lund\n'),
        ("dev.tsv", "question\tanswer\nWho, then?\tAda\nWhere?\tLund\n"),
        ("dev.jsonl", "\n".join(map(json.dumps, ROWS))),
    ],
)
def test_every_file_format_is_numbered_checked_and_converted(
    tmp_path: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    questions = read_questions(path)
    assert [(q.id, q.question, q.golden_answers) for q in questions] == [
        ("0", "Who, then?", ("Ada",)),
        ("1", "Where?", ("Lund",)),
    ]
    assert capsys.readouterr().err.count("have no id") == 1
    assert read_questions(path, limit=1) == questions[:1]
    assert check(path).problems == ()
    assert convert(path, tmp_path / "out.jsonl") == ("questions", 2)
    written = read_questions(tmp_path / "out.jsonl", source="dev")
    assert [q.id for q in written] == ["0", "1"]


def test_only_files_without_any_id_are_numbered(tmp_path: Path) -> None:
    late = jsonl(tmp_path / "late.jsonl", ROWS[0], ROWS[1] | {"id": "x"})
    with pytest.raises(InvalidInputError, match="2: expected no id, as in the first record"):
        read_questions(late)
    (problem,) = check(late).problems
    assert problem.line == 2
    early = jsonl(tmp_path / "early.jsonl", ROWS[0] | {"_id": "x"}, ROWS[1])
    with pytest.raises(InvalidInputError, match='2: expected "id" to be a string'):
        read_questions(early)


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"answers": "Ada"}, ("Ada",)),
        ({"answers": ["Ada", "A. L."]}, ("Ada", "A. L.")),
        ({"answer": ["Ada"], "aliases": ["Countess", "Ada"]}, ("Ada", "Countess")),
        ({"golden_answers": "Ada", "aliases": "Countess"}, ("Ada", "Countess")),
        ({"answers": "Ada", "aliases": []}, ("Ada",)),
        ({"golden_answers": ["Ada"], "aliases": None}, ("Ada",)),
    ],
)
def test_answers_and_aliases(tmp_path: Path, fields: Any, answers: tuple[str, ...]) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"id": "1", "question": "Who?"} | fields)
    assert read_questions(path)[0].golden_answers == answers


def test_the_original_hotpotqa_file(tmp_path: Path) -> None:
    record = {
        "_id": "5a7a",
        "question": "Which of the two is older?",
        "answer": "Ada",
        "type": "comparison",
        "level": "hard",
        "supporting_facts": [["Ada", 0], ["Bob", 1], ["Ada", 2]],
        "context": [["Ada", ["One."]], ["Bob", ["Two."]], ["Carl", ["Three."]]],
    }
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps([record]))
    (question,) = read_questions(path)
    assert (question.id, question.type, question.extra["level"]) == ("5a7a", "comparison", "hard")
    assert question.extra["supporting_titles"] == ["Ada", "Bob"]
    assert (question.supporting_ids, question.gold_kind) == ((), "none")
    convert(path, tmp_path / "out.jsonl")
    assert read_questions(tmp_path / "out.jsonl")[0].extra == question.extra
    hub = record | {"supporting_facts": {"title": ["Bob", "Bob"], "sent_id": [0, 1]}}
    path.write_text(json.dumps([hub]))
    assert read_questions(path)[0].extra["supporting_titles"] == ["Bob"]
