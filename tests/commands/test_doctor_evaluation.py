"""`tspo doctor FOLDER` on a folder of `tspo eval`: what is wrong with it, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.reporting.tree import ITEM, make_evaluation
from tspo_cli.commands.app import app
from tspo_cli.disk import one_writer
from tspo_cli.errors import InvalidInputError
from tspo_cli.record_digests import changing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "rag"
    make_evaluation(path, "rag", [ITEM])
    files = [file for file in path.iterdir() if file.suffix in (".json", ".gz")]
    with changing(*files):
        pass
    return path


def problems(folder: Path) -> list[str]:
    done = CliRunner().invoke(app, ["doctor", str(folder), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == (0 if found["ok"] else 1)
    return [line["detail"] for line in found["findings"] if line["state"] == "problem"]


def test_a_whole_evaluation_has_no_problem(folder: Path) -> None:
    assert problems(folder) == []
    text = CliRunner().invoke(app, ["doctor", str(folder)]).stdout
    assert "finished: rag on test (1 question)" in text
    assert text.rstrip().endswith("no problems")


@pytest.mark.parametrize("name", ["eval.json", "test.json", "test.items.jsonl.gz"])
def test_a_changed_record_is_named_once(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    (found,) = problems(folder)
    assert found.startswith(f"{folder / name}: differs from its digest")


@pytest.mark.parametrize("name", ["eval.json", "test.json", "test.items.jsonl.gz"])
def test_a_damaged_record_is_named_without_digests(folder: Path, name: str) -> None:
    (folder / "digests.jsonl").unlink()
    (folder / name).write_bytes(b"no")
    (found,) = problems(folder)
    assert found.startswith(f"{folder / name}")
    assert found.endswith("put back a copy, or evaluate again with --overwrite")


def test_a_missing_record_is_named(folder: Path) -> None:
    (folder / "test.json").unlink()
    (found,) = problems(folder)
    assert found.startswith(f"{folder / 'test.json'}: is missing")


def test_an_unfinished_evaluation_goes_on_unless_somebody_evaluates(folder: Path) -> None:
    for name in ("eval.json", "digests.jsonl", "test.json"):
        (folder / name).unlink()
    assert problems(folder) == [
        "an unfinished evaluation; go on with the same tspo eval and --resume"
    ]
    with one_writer(folder, "evaluates"):
        assert problems(folder) == []


def test_a_report_names_the_command_that_examines_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of the user: a path stays as it was given."""
    (folder / "eval.json").write_text("no")
    for place, named, command in (
        (folder.parent, "rag", "rag"),
        (folder.parent, ".", "rag"),
        (folder, ".", "."),
        (folder, str(folder), str(folder)),
    ):
        monkeypatch.chdir(place)
        failure = CliRunner().invoke(app, ["report", named]).exception
        assert isinstance(failure, InvalidInputError)
        file = "eval.json" if command == "." else f"{command}/eval.json"
        assert str(failure).startswith(f"{file}: differs from its digest")
        assert str(failure).endswith(f"`tspo doctor {command}` examines the evaluation")
