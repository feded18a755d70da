"""Metrics that are not those of the steps that a run made are said, without any digest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.reporting.tree import make_tree
from tspo_cli import runs
from tspo_cli.commands.app import app

LINES = [json.dumps({"step": step, "outcome": 0.1}) + "\n" for step in range(1, 5)]
SAID = {
    "the last line of metrics.jsonl is cut, and was left out": "".join(LINES)[:-5],
    "finished at step 4, but metrics.jsonl has 3 steps": "".join(LINES[:3]),
    "finished at step 4, but metrics.jsonl has 0 steps": "",
    "finished at step 4, but metrics.jsonl has 8 steps": "".join(
        json.dumps({"step": step}) + "\n" for step in range(1, 9)
    ),
    "not one line for each of the steps 1 to 4": "".join([*LINES, LINES[3]]),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("lost"), steps=4)


@pytest.fixture
def run(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree / "tspo", tmp_path / "run"))


@pytest.mark.parametrize("command", ["report", "runs show", "runs diff"])
@pytest.mark.parametrize("words", SAID)
def test_lost_steps_are_said_on_stderr(run: Path, tree: Path, command: str, words: str) -> None:
    other = [str(tree / "grpo")] if command == "runs diff" else []
    arguments = [*command.split(), str(run), *other, "--json"]
    assert "doctor" not in CliRunner().invoke(app, arguments).stderr
    (run / runs.METRICS_NAME).write_text(SAID[words])
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    (said,) = [line for line in done.stderr.splitlines() if words in line]
    assert f"`tspo doctor {run}` examines it" in said
    json.loads(done.stdout)


def test_a_cut_line_of_a_run_that_was_stopped_is_none(run: Path) -> None:
    """The run writes it again when it goes on."""
    runs.set_status(run, "stopped", 3, 1)
    (run / runs.METRICS_NAME).write_text("".join(LINES)[:-5])
    assert "cut" not in CliRunner().invoke(app, ["runs", "show", str(run)]).stderr


@pytest.mark.parametrize("command", ["report", "runs show"])
def test_evaluations_that_the_run_did_not_make_are_said(run: Path, command: str) -> None:
    """Half a copy of another run was left in its folder, with the digests of that run."""
    runs.write_json(run / runs.INPUTS_NAME, {"experiment": "a"})
    for step, experiment in ((2, "a"), (4, "b")):
        path = runs.scores_file(runs.eval_folder(run, step), "test")
        runs.write_json(path, runs.read_json(path) | {"digests": {"experiment": experiment}})
    shutil.copytree(runs.eval_folder(run, 2), runs.eval_folder(run, 6))
    said = CliRunner().invoke(app, [*command.split(), str(run)]).stderr
    assert "the evaluation of step 4 is one of another run" in said
    assert "it ended at step 4, and has an evaluation of step 6" in said
    assert "the evaluation of step 2" not in said
    found = CliRunner().invoke(app, ["doctor", str(run)])
    assert found.exit_code == 1
    assert "step_000004: the evaluation of step 4 is one of another run; move it" in found.stdout
    assert "step_000006: it ended at step 4, and has an evaluation of step 6" in found.stdout
