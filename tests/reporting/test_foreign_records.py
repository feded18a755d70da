"""Run directories of others: a record of the wrong form is one line, in every command."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.reliability.damage import edit_json
from experiments.reliability.damaged_runs import run_mutations
from tests.reporting.tree import make_tree
from tests.stand_ins import KINDS, stand_in
from tspo_cli.commands.app import app
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.runs import (
    checkpoint_folders,
    eval_steps,
    keep_steps_up_to,
    read_json,
    read_status,
    rollout_files,
    write_json,
)
from tspo_cli.training.core.checkpoints.checkpoint import check_checkpoint
from tspo_cli.work_limits import at_most

CASES = 10


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = make_tree(tmp_path_factory.mktemp("foreign"), steps=2)
    (demo / "tspo" / "env.json").write_text('{"versions": {"torch": "2"}, "gpus": [], "git": null}')
    return demo


def commands(run: Path, other: Path) -> list[list[str]]:
    words = [
        f"report {run} {other} --table all --json",
        f"report {run} --html {run}.html",
        f"inspect {run}",
        f"inspect {run} --eval --step 0 --compare {other}",
        f"credit {run} --json",
        f"runs show {run}",
        f"runs diff {run} {other}",
    ]
    return [line.split() for line in words]


def ends(run: Path, other: Path) -> list[str]:
    """What each command ended with: `ok`, or the error, which must be of ours."""
    found = []
    for command in commands(run, other):
        error = CliRunner().invoke(app, command).exception
        expected = isinstance(error, TspoError) or (isinstance(error, OSError) and error.strerror)
        if error is not None and not expected:
            raise AssertionError(f"{' '.join(command)}: {error!r}") from error
        assert error is None or "\n" not in str(error)
        found.append("ok" if error is None else str(error))
    return found


def test_a_whole_run_is_read(tree: Path) -> None:
    assert ends(tree / "tspo", tree / "grpo") == ["ok"] * 7


@pytest.mark.parametrize("number", range(CASES))
def test_damaged_records_are_one_line(tree: Path, tmp_path: Path, number: int) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    mutation = run_mutations(run, CASES, random.Random(7))[number]
    mutation.apply(run)
    ends(run, tree / "grpo")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("metrics.jsonl", {"loss": "1.5"}, "loss: Input should be a valid number"),
        ("metrics.jsonl", {"step": -1}, "step: Input should be greater than or equal to 0, got -1"),
        ("timings.jsonl", {"total": []}, "total: Input should be a valid number"),
        ("status.json", {"warnings": "no"}, "warnings: Input should be a valid list"),
        ("config.resolved.json", {"train": 5}, "train: Input should be a valid dictionary"),
        (
            "eval/step_000002/test.json",
            {"em": float("nan")},
            "em: Input should be less than or equal to 1, got nan",
        ),
        ("eval/step_000002/test.json", {"n": 10**30}, "n: Input should be"),
        ("env.json", {"python": [[1]]}, "python: Input should be"),
        ("env.json", {"platform": 5}, "platform: Input should be"),
        ("env.json", {"cpu_count": -1}, "cpu_count: Input should be"),
        ("env.json", {"gpus": {"0": 1}}, "gpus: Input should be a valid list"),
    ],
)
def test_the_wrong_key_is_named(
    tree: Path, tmp_path: Path, file: str, change: dict[str, object], words: str
) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    edit_json(run / file, lambda record: record | change)
    said = [end for end in ends(run, tree / "grpo") if end != "ok"]
    assert any(f"{run / file}: not a record of tspo: {words}" in text for text in said), said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_steps_without_a_number_are_not_measured(tree: Path, tmp_path: Path, value: Any) -> None:
    """Earlier versions wrote NaN; a diverged training may have infinity."""
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    for name in ("metrics.jsonl", "timings.jsonl"):
        all_numbers(run / name, value)
    assert ends(run, tree / "grpo") == ["ok"] * 7


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 2e300])
@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
def test_numbers_whose_sum_has_no_form_are_named(
    tree: Path, tmp_path: Path, name: str, value: float
) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    all_numbers(run / name, value)
    said = {end for end in ends(run, tree / "grpo") if end != "ok"}
    assert any(f"{run / name}: not a record of tspo: " in text for text in said), said


def all_numbers(path: Path, value: float | None) -> None:
    """Every number of every line but the step becomes `value`."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    new = [{key: step if key == "step" else value for key, step in line.items()} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in new))


def test_a_figure_leaves_out_evaluations_without_a_score(tree: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    figure = tmp_path / "curves.svg"
    command = ["report", str(run), "--figure", str(figure)]
    edit_json(run / "eval/step_000000/test.json", lambda record: record | {"em": None})
    assert CliRunner().invoke(app, command).exit_code in (0, 4)
    for path in run.glob("eval/*/test.json"):
        edit_json(path, lambda record: record | {"em": None})
    error = CliRunner().invoke(app, command).exception
    assert "no training run here was evaluated at two steps" in str(error)


@pytest.mark.parametrize("command", ["report {} {other}", "runs show {}", "runs diff {other} {}"])
def test_of_several_runs_the_damaged_one_is_named_with_what_examines_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    shutil.copytree(tree / "tspo", tmp_path / "tspo")
    edit_json(tmp_path / "tspo" / "metrics.jsonl", lambda record: record | {"step": -1})
    monkeypatch.chdir(tmp_path)
    words = command.format("tspo", other=tree / "grpo").split()
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, InvalidInputError)
    assert re.search(r"tspo/metrics\.jsonl: .*; `tspo doctor .*tspo` examines", str(error))


@pytest.mark.parametrize(
    ("name", "command", "kind"),
    [
        ("metrics.jsonl", "report", "a named pipe"),
        ("timings.jsonl", "report --table all", "a directory"),
        ("status.json", "report", "a socket"),
        ("config.resolved.json", "credit", "a named pipe"),
        ("env.json", "runs show", "a device"),
        ("command.txt", "inspect", "a directory"),
        ("digests.jsonl", "report", "a named pipe"),
        ("eval/step_000002/test.json", "report", "a device"),
        ("eval/step_000002/test.items.jsonl.gz", "inspect --eval --step 2", "a named pipe"),
        ("rollouts/step_000001.jsonl.gz", "inspect --step 1", "a socket"),
    ],
)
def test_what_is_no_file_is_one_line_and_never_waited_for(
    tree: Path, tmp_path: Path, name: str, command: str, kind: str
) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    stand_in(run / name, kind)
    words = f"{run / name}: expected a file, got {kind}"
    with at_most(20):
        error = CliRunner().invoke(app, [*command.split(), str(run)]).exception
        found = CliRunner().invoke(app, ["doctor", str(run), "--json"]).stdout
    assert isinstance(error, InvalidInputError)
    assert words in str(error)
    assert words in found or name == "command.txt"  # which says nothing of the run's health


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_does_not_wait_for_it_either(tmp_path: Path, kind: str) -> None:
    for name, read in (
        ("metrics.jsonl", lambda path: keep_steps_up_to(path, 1)),
        ("status.json", lambda path: read_status(path.parent)),
        ("inputs.json", read_json),
        ("checkpoints/step_000001/state.json", lambda path: check_checkpoint(path.parent)),
    ):
        stand_in(tmp_path / name, kind)
        with (
            at_most(20),
            pytest.raises(InvalidInputError, match=rf"{name}: expected a file, got {kind}"),
        ):
            read(tmp_path / name)


@pytest.mark.parametrize("value", [[[1]], {"a": 1}, 5, None])
@pytest.mark.parametrize("command", ["report", "report --table main --format csv", "doctor"])
def test_inputs_are_texts(tree: Path, tmp_path: Path, value: object, command: str) -> None:
    """A report compares them, which ended in a traceback."""
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    write_json(run / "inputs.json", {"model": "a", "questions": value})
    done = CliRunner().invoke(app, [*command.split(), str(run)])
    said = f"{done.exception}{done.stdout}"
    assert done.exit_code == 1
    assert "inputs.json: not a record of tspo: questions: Input should be an instance of" in said


@pytest.mark.parametrize("status", [[], 5, {}, {"state": 5, "step": 1}, {"state": "finished"}])
def test_a_run_without_a_model_needs_a_whole_status(
    tree: Path, tmp_path: Path, status: object
) -> None:
    """To evaluate it ended in a traceback."""
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "run"))
    shutil.rmtree(run / "model", ignore_errors=True)
    write_json(run / "status.json", status)
    words = ["eval", run, "--data", "nq.jsonl", "--index", "idx"]
    error = CliRunner().invoke(app, [str(word) for word in words]).exception
    assert isinstance(error, InvalidInputError)
    assert "status.json: " in str(error)
    assert error.args[0].endswith("; put back a copy, or delete it: --resume writes it anew")


@pytest.mark.parametrize("name", ["rollouts", "eval", "eval/step_000002", "checkpoints"])
def test_a_file_in_the_place_of_a_folder_is_one_line(tree: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).write_text("")
    with pytest.raises(InvalidInputError, match=f"{name}: expected a directory"):
        rollout_files(run), eval_steps(run), checkpoint_folders(run)
    done = CliRunner().invoke(app, ["doctor", str(run)])
    assert done.exit_code == 1
    assert f"{run / name}: expected a directory; put back a copy, or delete it" in done.stdout


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("rollouts/step_000001.jsonl.gz", "credit"),
        ("rollouts/step_000001.jsonl.gz", "inspect --step 1 --json"),
        ("eval/step_000002/test.items.jsonl.gz", "inspect --eval --step 2"),
    ],
)
def test_an_empty_file_is_no_record(tree: Path, tmp_path: Path, place: str, command: str) -> None:
    """A machine that lost its power leaves such files. One of no records has a gzip header."""
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "run"))
    (run / place).write_bytes(b"")
    error = CliRunner().invoke(app, [*command.split(), str(run)]).exception
    assert isinstance(error, InvalidInputError)
    assert f"{run / place}: damaged or not gzip JSON lines (it is empty)" in str(error)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("metrics.jsonl", "report --table all"),
        ("status.json", "report"),
        ("digests.jsonl", "runs show"),
        ("eval/step_000002/test.json", "report"),
        ("command.txt", "runs show"),
        ("rollouts/step_000002.jsonl.gz", "credit"),
        ("eval/step_000002/test.items.jsonl.gz", "report --table tests"),
    ],
)
def test_a_file_with_holes_does_not_fill_the_memory(
    tree: Path, tmp_path: Path, name: str, command: str
) -> None:
    """300 GB that fill no disk ended in a MemoryError, and 20 GB in the end of the process."""
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "run"))
    (run / name).touch()  # a packed one keeps its records, and zeros follow
    os.truncate(run / name, 300 << 30)
    words = f"{run / name}: expected at most 1,073,741,824 bytes, got 322,122,547,200"
    error = CliRunner().invoke(app, [*command.split(), str(run)]).exception
    assert isinstance(error, InvalidInputError)
    assert words in str(error)
    doctor = CliRunner().invoke(app, ["doctor", str(run), "--json"])
    assert words in doctor.stdout or name == "command.txt"  # see above


def test_rollouts_of_another_step_are_not_those_of_this_one(tree: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "run"))
    (_, first), (_, second) = rollout_files(run)
    shutil.copy(first, second)
    words = f"{second}:1: expected a group of step 2, got one of step 1"
    for command in ("credit", "inspect --step 2"):
        error = CliRunner().invoke(app, [*command.split(), str(run)]).exception
        assert isinstance(error, InvalidInputError)
        assert words in str(error)
    assert words in CliRunner().invoke(app, ["doctor", str(run), "--json"]).stdout


def test_a_group_that_is_there_twice_is_refused(tree: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "run"))
    _, path = rollout_files(run)[0]
    lines = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(lines + lines))
    again = len(lines.splitlines()) + 1
    words = f"{path}:{again}: expected each group once, got "
    for command in ("credit", "inspect --step 1"):
        error = CliRunner().invoke(app, [*command.split(), str(run)]).exception
        assert isinstance(error, InvalidInputError)
        assert str(error).startswith(words)
        assert str(error).endswith(f"put back a copy; `tspo doctor {run}` examines the run")
    assert words in CliRunner().invoke(app, ["doctor", str(run)]).stdout
