"""`tspo data` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tspo_cli.commands.data import app
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError

QUESTION = {"id": "q1", "question": "Who?", "golden_answers": ["Ada"], "supporting_ids": ["p1"]}
SMALL = (
    "--entities",
    "60",
    "--test-entities",
    "40",
    "--train-questions",
    "30",
    "--test-questions",
    "20",
)


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TSPO_DATA", raising=False)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def put(path: str, *records: dict[str, object]) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(
        "".join(json.dumps(record) + "\n" for record in records), encoding="utf-8"
    )
    return Path(path)


def test_list() -> None:
    empty = run("list")
    assert empty.exit_code == 0
    assert [line.split()[0] for line in empty.stdout.splitlines()][:3] == [
        "nq",
        "triviaqa",
        "popqa",
    ], "benchmarks"
    assert "no data sets in data" in empty.stderr
    put("data/nq/questions.jsonl", QUESTION)
    assert run("list").stdout.split()[:3] == ["nq", "1", "question"]
    shown = json.loads(run("list", "--json").stdout)
    assert shown["datasets"] == [
        {"name": "nq", "questions": 1, "path": "data/nq/questions.jsonl", "corpus": None}
    ]
    assert [(entry["name"], entry["local"]) for entry in shown["benchmarks"]][:2] == [
        ("nq", True),
        ("triviaqa", False),
    ]


def test_check_of_a_sound_file() -> None:
    put("data/nq/questions.jsonl", QUESTION)
    corpus = put("corpus.jsonl", {"id": "p1", "contents": "Ada"})
    done = run("check", "nq", "--corpus", corpus, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "questions": 1,
        "passages": 1,
        "data_sources": {"nq": 1},
        "types": {},
        "with_supporting_ids": 1,
        "yes_no_questions": 0,
        "with_answer_in_corpus": 1,
        "identical_questions": 0,
        "identical_passages": 0,
        "problems": [],
        "problem_count": 0,
    }
    assert "with answer in corpus  1" in run("check", "nq", "--corpus", corpus).stdout


def test_yes_and_no_are_not_looked_for_in_a_corpus() -> None:
    put("q.jsonl", QUESTION, QUESTION | {"id": "q2", "golden_answers": ["Yes.", "no"]})
    corpus = put("corpus.jsonl", {"id": "p1", "contents": "yes, no"})
    report = json.loads(run("check", "q.jsonl", "--corpus", corpus, "--json").stdout)
    assert (report["yes_no_questions"], report["with_answer_in_corpus"]) == (1, 0)
    shown = run("check", "q.jsonl", "--corpus", corpus).stdout
    assert "with answer in corpus  0  (of 1: yes and no prove nothing)\n" in shown


def test_check_prints_every_problem_and_fails() -> None:
    path = put("q.jsonl", QUESTION, QUESTION | {"question": "Or who?"}, {"id": "q2"})
    done = run("check", path)
    assert isinstance(done.exception, InvalidInputError)
    assert "q.jsonl:2: id 'q1' as on line 1, with other content\n" in done.stdout
    assert 'q.jsonl:3: expected "question"' in done.stdout
    assert str(done.exception).startswith("q.jsonl: 2 problems")
    as_json = run("check", path, "--json")
    assert isinstance(as_json.exception, InvalidInputError)
    assert [problem["line"] for problem in json.loads(as_json.stdout)["problems"]] == [2, 3]
    assert isinstance(run("check", "absent").exception, MissingResourceError)


def test_convert() -> None:
    path = put("in.jsonl", {"id": 1, "title": "T", "text": "x"})
    done = run("convert", path, "out.jsonl.gz", "--kind", "passages", "--json")
    assert json.loads(done.stdout) == {"kind": "passages", "count": 1, "path": "out.jsonl.gz"}
    assert run("convert", path, "out.jsonl").stdout == "out.jsonl: 1 passage\n"
    assert run("convert", path, "out.jsonl", "--kind", "other").exit_code == 2
    before = Path("out.jsonl").read_bytes()
    other = put("other.jsonl", {"id": 2, "title": "T", "text": "y"})
    refused = run("convert", other, "out.jsonl")
    assert isinstance(refused.exception, InvalidInputError)
    assert "out.jsonl: is already there; add --overwrite" in str(refused.exception)
    assert Path("out.jsonl").read_bytes() == before
    assert run("convert", other, "out.jsonl", "--overwrite").exit_code == 0
    assert Path("out.jsonl").read_bytes() != before


def test_make_world_gives_files_that_check_out() -> None:
    done = run("make-world", "--out", "world", *SMALL, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["train_questions"], summary["test_questions"]) == (30, 20)
    checked = run("check", "world/test.jsonl", "--corpus", "world/corpus.jsonl", "--json")
    assert checked.exit_code == 0
    assert json.loads(checked.stdout)["with_answer_in_corpus"] == 18, (
        "two comparisons are answered by yes or no"
    )
    assert isinstance(run("make-world", "--out", "world", *SMALL).exception, InvalidInputError)
    assert run("make-world", "--out", "world", *SMALL, "--overwrite").exit_code == 0


def test_make_world_options_follow_its_configuration() -> None:
    import inspect

    from tspo_cli.commands.data import make_world
    from tspo_cli.data.world.world_config import WorldConfig

    options = {
        name: parameter.default
        for name, parameter in inspect.signature(make_world).parameters.items()
    }
    assert set(options) - {"out", "overwrite", "as_json"} == set(WorldConfig.model_fields)
    for name, field in WorldConfig.model_fields.items():
        assert options[name] in (None, field.default)


def test_make_world_names_the_wrong_option() -> None:
    done = run("make-world", "--out", "world", "--entities", "-1")
    assert isinstance(done.exception, InvalidInputError)
    assert str(done.exception).startswith("--entities -1")
    done = run("make-world", "--out", "world", "--two-hop-share", "2")
    assert done.exit_code == 2
    assert "--two-hop-share" in done.stderr


def test_convert_takes_the_place_to_write_as_other_commands_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.csv").write_text("question,answer\nwho wrote Emma,Jane Austen\n")
    assert run("convert", "a b.csv", "--out", "x.jsonl").stdout == "x.jsonl: 1 question\n"
    assert run("convert", "a b.csv", "y.jsonl").exit_code == 0
    assert (tmp_path / "x.jsonl").read_bytes() == (tmp_path / "y.jsonl").read_bytes()
    for more in ([], ["z.jsonl", "--out", "w.jsonl"]):
        failure = run("convert", "a b.csv", *more).exception
        assert isinstance(failure, UsageError)
        assert str(failure) == "name one file to write: tspo data convert 'a b.csv' OUT.jsonl"
    assert not (tmp_path / "z.jsonl").exists()
