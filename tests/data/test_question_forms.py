"""Questions as people have them: tables, arrays, no ids, one answer or many, HotpotQA itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.data.check import check
from tspo_cli.data.convert import convert
from tspo_cli.data.formats.answers import UNANSWERABLE
from tspo_cli.data.readers import read_questions
from tspo_cli.errors import InvalidInputError

TEXTS = ("London", "in London", "London")
ANSWERS = ("London", "in London")
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


@pytest.mark.parametrize("facts", [0.5, 7, True, "Ada", {"title": 3}, [3, [], [None]], {"a": []}])
def test_supporting_facts_of_another_form_name_no_titles(tmp_path: Path, facts: object) -> None:
    path = tmp_path / "hotpot.jsonl"
    record = {"question": "Who?", "answer": "Ada", "supporting_facts": facts}
    path.write_text(json.dumps(record))
    (question,) = read_questions(path)
    assert "supporting_titles" not in question.extra


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Ada",
            "paragraphs": [
                {
                    "context": "Ada was born in London.",
                    "qas": [
                        {
                            "id": "s1",
                            "question": "Where was Ada born?",
                            "answers": [{"text": text, "answer_start": 16} for text in TEXTS],
                            "is_impossible": False,
                        },
                        {"id": "s2", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        },
        {"title": "Bob", "paragraphs": []},
    ],
}
TRIVIA = {
    "Data": [
        {
            "Answer": {"Aliases": ["Lund, Sweden", "Lund"], "Type": "FreeForm", "Value": "Lund"},
            "EntityPages": [],
            "Question": "Which town?",
            "QuestionId": "tc_1",
        }
    ],
    "Domain": "unfiltered-web",
}


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize(
    ("original", "expected"),
    [
        (SQUAD, ("s1", "Where was Ada born?", ANSWERS)),
        ({"data": SQUAD["data"], "version": "1.1"}, ("s1", "Where was Ada born?", ANSWERS)),
        (TRIVIA, ("tc_1", "Which town?", ("Lund", "Lund, Sweden"))),
    ],
)
def test_the_original_files_of_squad_and_triviaqa(
    tmp_path: Path,
    original: Any,
    expected: tuple[str, str, tuple[str, ...]],
    indent: int | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(original, indent=indent))
    (question,) = read_questions(path)
    assert (question.id, question.question, question.golden_answers) == expected
    left_out = f"{path}: 1 question was left out: {UNANSWERABLE}"
    assert capsys.readouterr().err.count(left_out) == (original is not TRIVIA)
    report = check(path)
    assert (report.questions, report.problems) == (1, ())
    assert convert(path, tmp_path / "out.jsonl") == ("questions", 1)
    (written,) = read_questions(tmp_path / "out.jsonl")
    assert written.golden_answers == question.golden_answers


def test_a_damaged_file_of_squad_names_the_form(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"title": "Ada", "paragraphs": [{"context": "x"}]}]}))
    (problem,) = check(path).problems
    assert 'expected "paragraphs" of SQuAD, objects with a list "qas"' in problem.message
    path.write_text(json.dumps(SQUAD)[:-40])
    assert "array of JSON objects up to its ]" in str(check(path).problems[-1])


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": "x", "answerable": False},
        {"answer": "x", "answerable": "False"},
        {"answer": "x", "answerable": 0},
        {"answers": ["x"], "is_impossible": "true"},
        {"answers": ["x"], "is_impossible": "1"},
        {"answers": {"text": [], "answer_start": []}, "context": "c"},
    ],
)
def test_unanswerable_questions_are_left_out(
    tmp_path: Path, fields: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "q.jsonl", ROWS[0] | fields, ROWS[1] | {"answerable": True})
    assert [question.question for question in read_questions(path)] == ["Where?"]
    assert capsys.readouterr().err.count("1 question was left out") == 1
    assert check(path).questions == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": None}, 'expected "answer" to hold an answer, got none; fix: give at least one'),
        ({"answer": ""}, "to hold an answer, got none; fix: give at least one accepted answer"),
        ({"answers": []}, "to hold an answer, got none; fix: give at least one accepted answer"),
        ({"q": 1}, "got fields question, q; fix: give at least one accepted answer"),
        ({"gold_answers": ["x"]}, "got fields question, gold_answers; fix: rename gold_answers"),
    ],
)
def test_a_question_without_an_answer_says_so(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"question": "Who?"} | record)
    (problem,) = check(path).problems
    assert message in problem.message


ONE, OTHER = ({"data": [{"question": f"{word}?", "answer": "Ada"}]} for word in ("Who", "Where"))


@pytest.mark.parametrize(
    "text",
    [
        f"{json.dumps(ONE)}\n{json.dumps(OTHER)}",
        f"{json.dumps(ONE['data'])}\n{json.dumps(OTHER['data'])}",
        json.dumps({**ONE, "Data": OTHER["data"]}),
        json.dumps(ONE)[:-1],
        json.dumps(ONE) + "]",
        json.dumps(ONE["data"]) + " " * 3_000_000 + "x",
        json.dumps(ONE["data"]) + ' {"question": "Where?", "answer": "Ada"}',
    ],
)
def test_no_question_behind_a_list_is_lost_without_a_word(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="expected the JSON to end behind the list"):
        read_questions(path)


@pytest.mark.parametrize(
    "rest",
    [
        '], "version": "1.1", "x": [1]}',
        "]}\n \n",
        "]\n}" + " " * 99,
        f'], "licence": "{"x" * 3_000_000}"}}',
    ],
)
def test_other_fields_and_blanks_may_follow_a_list(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(ONE)[:-2] + rest)
    assert len(read_questions(path)) == 1


def test_a_file_of_unanswerable_questions_is_not_called_empty(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", ROWS[0] | {"answerable": False})
    with pytest.raises(InvalidInputError, match="expected questions with an answer, got none"):
        read_questions(path)
