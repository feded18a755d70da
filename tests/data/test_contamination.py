"""`tspo data audit`: evaluation questions in a corpus, in training, and twice in their file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tspo_cli.commands.data import app
from tspo_cli.data.corpus.contamination import Located, QuestionFinder, plain_words
from tspo_cli.data.question import Question
from tspo_cli.errors import GateError
from tspo_cli.retrieval.index.other_corpus import OTHER_CORPUS


def put(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def ask(identifier: str, question: str, *answers: str) -> dict[str, Any]:
    return {"id": identifier, "question": question, "golden_answers": list(answers)}


def found(question: str, answer: str, *passages: str) -> list[str]:
    finder = QuestionFinder([Located(Path("q"), 1, Question("1", question, (answer,), "s"))])
    for number, passage in enumerate(passages):
        finder.feed(f"c:{number}", passage)
    return [f"{finding.kind} {finding.where}" for finding in finder.findings()]


@pytest.mark.parametrize(
    ("question", "passage"),
    [
        ("Who built the old mill?", "Quiz night: WHO  built\nthe old mill -- nobody knew"),
        ("Où est née l’autrice?", "« Ou\u0300 est ne\u0301e l'autrice »"),
        ("红楼梦是谁写的？", "他问红楼梦是谁写的没有人答"),
        ("ﬁrst man in space", "First man in space"),
        ("how tall is K2?", "How-tall is K2"),
    ],
)
def test_a_question_is_found_however_it_is_written(question: str, passage: str) -> None:
    assert found(question, "Zed", "other", passage) == ["question_in_passage in c:1"]


@pytest.mark.parametrize(
    ("question", "passage"),
    [
        ("Who built the old mill?", "who built the old mills of Kent"),
        ("Who built the old mill?", "the old mill, who built"),
        ("K2 height", "the K2 height is known"),
        ("?!", "what?!"),
    ],
)
def test_other_words_and_short_phrases_are_not_found(question: str, passage: str) -> None:
    assert found(question, "known", passage) == []


def test_the_answer_counts_outside_the_question() -> None:
    question = "Is Ada or Bob older?"
    assert found(question, "Ada", question) == ["question_in_passage in c:0"]
    assert found(question, "Ada", question, f"{question} It is ADA.") == [
        "answer_in_passage in c:1, with its answer"
    ]
    assert found(question, "Ad", f"{question} Ada") == ["question_in_passage in c:0"]
    assert plain_words(" A_b\u00a0C ") == " a b c "


def test_the_audit_names_files_and_lines(tmp_path: Path) -> None:
    questions = put(
        tmp_path / "dev.jsonl",
        ask("1", "Who painted the red door?", "Mira Holt"),
        ask("2", "When did the ferry sink?", "1911"),
        ask("3", "who painted the RED door", "Mira Holt"),
        ask("4", "Where is the clock tower?", "Lund"),
    )
    train = put(tmp_path / "train.jsonl", ask("a", "Where is  the clock-tower", "Lund"))
    corpus = put(
        tmp_path / "corpus.jsonl",
        {"id": "p1", "title": "x", "text": "plain"},
        {"id": "p2", "title": "FAQ", "text": "Who painted the red door? Mira Holt did."},
        {"id": "p3", "title": "FAQ", "text": "When did the ferry sink? We do not say."},
    )
    command = ["audit", str(questions), "--corpus", str(corpus), "--train", str(train)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)["contamination"]
    assert report["counts"] == {
        "answer_in_passage": 2,
        "question_in_passage": 1,
        "shared_with_training": 1,
        "duplicate": 1,
    }
    places = [(e["kind"], e["line"], e["where"]) for e in report["examples"]]
    assert ("answer_in_passage", 1, f"in {corpus}:2, with its answer") in places
    assert ("question_in_passage", 2, f"in {corpus}:3") in places
    assert ("shared_with_training", 4, f"also in {train}:1") in places
    assert ("duplicate", 3, "also on line 1") in places
    plain = CliRunner().invoke(app, command)
    assert "questions that are also training questions: 1" in plain.stdout
    assert f"{questions}:4: 'Where is the clock tower?' is also in {train}:1" in plain.stdout
    strict = CliRunner().invoke(app, [*command, "--strict"])
    assert isinstance(strict.exception, GateError)
    assert "5 findings" in str(strict.exception)
    few = CliRunner().invoke(app, [*command, "--limit", "1", "--json"])
    assert sum(json.loads(few.stdout)["contamination"]["counts"].values()) == 1


def test_training_alone_and_an_index_are_audited(tmp_path: Path) -> None:
    from tspo_cli.retrieval.index.build_index import build_index

    questions = put(tmp_path / "dev.jsonl", ask("1", "Who tuned the organ?", "Ilse"))
    other = put(tmp_path / "train.jsonl", ask("1", "Who tuned the piano?", "Ilse"))
    clean = CliRunner().invoke(app, ["audit", str(questions), "--train", str(other), "--strict"])
    assert clean.exit_code == 0
    assert (
        "no question was found among the training questions, or twice in its file" in clean.stderr
    )
    assert "a passage" not in clean.stderr, "no corpus was read"
    passage = {"id": "p9", "title": "", "text": "Asked: who tuned the organ? Ilse."}
    build_index(put(tmp_path / "c.jsonl", passage), tmp_path / "index")
    index = ["audit", str(questions), "--index", str(tmp_path / "index"), "--json"]
    (example,) = json.loads(CliRunner().invoke(app, index).stdout)["contamination"]["examples"]
    assert example["where"] == f"in passage 'p9' of {tmp_path / 'index'}, with its answer"


def test_an_audit_with_another_corpus_says_so(tmp_path: Path) -> None:
    gold = ask("1", "Who tuned the organ?", "Ilse") | {"supporting_ids": ["p9"]}
    questions = put(tmp_path / "dev.jsonl", gold)
    for name, warned in (("p9", False), ("p8", True)):
        corpus = put(tmp_path / f"{name}.jsonl", {"id": name, "title": "", "text": "Bread."})
        done = CliRunner().invoke(app, ["audit", str(questions), "--corpus", str(corpus)])
        assert (f"warning: dev: {OTHER_CORPUS}" in done.stderr) == warned
