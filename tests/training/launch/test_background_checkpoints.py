"""A checkpoint is written while the next rollouts are made, and holds the weights of its step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished, Playground, run_prepared, run_tspo
from tests.training.launch.moments import at, is_one_of
from tests.training.launch.test_stopping import command
from tspo_cli.runs import read_json

pytestmark = pytest.mark.slow
HERE = "tests.training.launch.test_background_checkpoints"
KEPT = {"checkpoint__every": 1, "checkpoint__keep": 9, "train__steps": 3, "eval__every": 0}


def held(moment: str, act: str = "", ranks: str = "") -> None:
    """In the processes `ranks`, the files of every checkpoint wait for the next `moment` of
    training. Where none comes within a minute, they are not written at all. `act`: what happens at
    the second one.
    """
    from tspo_cli.training.core.checkpoints import checkpoint

    write, came = checkpoint.write_tensors, threading.Event()

    def write_later(path: Path, tensors: dict[str, Any]) -> None:
        if "step_000003" not in str(path) and is_one_of(ranks):  # the last one has no next step
            if not came.wait(60):
                raise RuntimeError(f"{path}: training does not go on meanwhile")
            came.clear()
        write(path, tensors)

    def go_on(number: int) -> None:
        came.set()
        if act == "crash" and number == 2:
            raise MemoryError("no room for 123 MB")
        at(moment, 1, lambda: go_on(number + 1))

    checkpoint.write_tensors = write_later
    # The moments of the first step come before any checkpoint.
    at(moment, 2 if moment == "update" else 1, lambda: go_on(1))


def checkpoints(run: Path) -> dict[str, bytes]:
    files = sorted((run / "checkpoints").glob("*/*"))
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def straight(
    playground: Playground, tspo: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    tspo(*command(playground, run, **KEPT))
    return run


@pytest.mark.parametrize("processes", [1, 2])
def test_the_next_step_goes_on_until_its_weights_change(
    playground: Playground, straight: Path, tmp_path: Path, processes: int
) -> None:
    """Written as late as may be, when the gradients are summed up, checkpoints are the same."""
    run, ranks = tmp_path / "run", "1" if processes == 2 else ""
    codes, said = run_prepared(
        f"{HERE}:held:update::{ranks}", *command(playground, run, **KEPT), ranks=processes
    )
    assert codes == [0] * processes, said
    names = [f"step_{step:06}" for step in (1, 2, 3)]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    if processes == 1:
        assert checkpoints(run) == checkpoints(straight)


def test_a_step_that_fails_leaves_the_checkpoint_before_it(
    playground: Playground, straight: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    codes, said = run_prepared(f"{HERE}:held:update:crash", *command(playground, run, **KEPT))
    assert codes == [1], said
    assert "no room for 123 MB" in said
    assert read_json(run / "status.json")["state"] == "failed"
    found, wanted = checkpoints(run), checkpoints(straight)
    assert found == {name: wanted[name] for name in wanted if "step_000003" not in name}


def test_a_checkpoint_that_does_not_fit_ends_the_run_in_the_next_step(
    playground: Playground, straight: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    codes, said = run_prepared(f"{HERE}:full:2", *command(playground, run, **KEPT))
    assert codes == [1], said
    assert "state.safetensors: no space left on device" in said
    found, wanted = checkpoints(run), checkpoints(straight)
    assert found == {name: wanted[name] for name in wanted if "step_000001" in name}
    done = run_tspo(*command(playground, run, "--resume", **KEPT))
    assert done.code == 0, done.err
    assert checkpoints(run) == wanted


def test_of_two_errors_both_are_said(playground: Playground, tmp_path: Path) -> None:
    run = tmp_path / "run"
    codes, said = run_prepared(f"{HERE}:full_and_crash", *command(playground, run, **KEPT))
    assert codes == [1], said
    assert "the checkpoint of step 1 was not written" in said
    assert "no room for 123 MB" in said.splitlines()[-1]
    assert checkpoints(run) == {}


def full_and_crash() -> None:
    """The first checkpoint does not fit, and the step after it fails before that is known."""

    def crash() -> None:
        raise MemoryError("no room for 123 MB")

    full("1")
    at("update", 2, crash)


def full(number: str) -> None:
    """The files of the checkpoint of this step do not fit."""
    import errno

    from tspo_cli.disk import WriteError
    from tspo_cli.training.core.checkpoints import checkpoint

    write = checkpoint.write_tensors

    def write_or_fail(path: Path, tensors: dict[str, Any]) -> None:
        if f"step_{int(number):06}" in str(path):
            raise WriteError(errno.ENOSPC, "No space left on device", str(path))
        write(path, tensors)

    checkpoint.write_tensors = write_or_fail
