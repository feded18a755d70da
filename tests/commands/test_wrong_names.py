"""Names of scores, settings and files that are wrong are refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tests.reporting.tree import make_evaluation


def evaluation(folder: Path) -> Path:
    item = {"id": "q", "question": "q?", "golden_answers": ["y"], "em": 1.0, "f1": 1.0}
    item |= {"trajectory": {"sample": 0, "answer": "y", "failed": False, "turns": []}}
    make_evaluation(folder, "rag", [item])
    return folder


def test_a_gate_on_no_score_is_refused_before_the_evaluation(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "who?", "golden_answers": ["y"]}\n', encoding="utf-8")
    done = run_tspo(
        *("eval", "m", "--endpoint", "http://127.0.0.1:9/v1", "--data", questions),
        *("--method", "direct", "--out", folder, "--overwrite", "--fail-under", "nope=1"),
    )
    assert done.code == 2
    assert "--fail-under nope=1: no score has that name" in done.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_metric_or_setting_of_no_run_is_refused(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "out")
    for option, value in (("--metric", "zz"), ("--ignore", "zz")):
        done = run_tspo("report", folder, option, value)
        assert done.code == 2
        assert f"{option} {value}: " in done.err
    assert run_tspo("report", folder, "--metric", "f1", "--ignore", "optimizer.lr").code == 0


def test_a_figure_does_not_replace_another_file(tmp_path: Path) -> None:
    folder, notes = evaluation(tmp_path / "out"), tmp_path / "notes.svg"
    notes.write_text("my notes", encoding="utf-8")
    done = run_tspo("report", folder, "--figure", notes)
    assert done.code == 3
    assert "notes.svg: is no figure; delete it, or choose another place" in done.err
    assert notes.read_text("utf-8") == "my notes"


@pytest.mark.parametrize(
    "command",
    [
        ["index", "search", "{}", "lake"],
        ["index", "info", "{}"],
        ["serve", "{}"],
        ["eval", "model", "--data", "q.jsonl", "--index", "{}"],
    ],
    ids=" ".join,
)
def test_the_address_of_a_server_is_no_index(command: list[str]) -> None:
    """It was advised to build an index at `http:/127.0.0.1:8000`."""
    done = run_tspo(*(word.format("http://127.0.0.1:8000") for word in command))
    assert "http://127.0.0.1:8000: expected the directory of an index, got the addr" in done.err
    assert "index build" not in done.err


def test_an_index_is_no_address(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "who?", "golden_answers": ["y"]}\n', encoding="utf-8")
    done = run_tspo(
        *("eval", "m", "--endpoint", "http://127.0.0.1:9/v1", "--data", questions),
        *("--retriever", "idx"),
    )
    assert done.code == 3
    assert "the directory of an index goes in --index" in done.err
