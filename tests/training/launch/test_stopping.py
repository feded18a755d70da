"""A training that is asked to stop writes the checkpoint of its last whole step, and a resumed run
is the same as one that was never stopped.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_prepared, run_tspo
from tspo_cli.runs import read_json, read_jsonl

pytestmark = pytest.mark.slow
Tspo = Callable[..., Finished]
STEPS = 4


def command(playground: Playground, run: Path, *more: str, **values: object) -> list[str]:
    options = {
        "train__steps": STEPS,
        "train__export_model": "false",
        "checkpoint__best": "none",
        "checkpoint__every": 50,
        "eval__every": 2,
        "eval__at_start": "false",
        "eval__limit": 3,
        "loss__entropy": 0.001,  # every step moves the weights, whatever the rewards
        **values,
    }
    return ["train", "tiny/tspo", "--out", str(run), *playground.settings(**options), *more]


def sent(moment: str, number: int, name: str, *more: object) -> str:
    return ":".join(map(str, ["tests.training.launch.moments:send", moment, number, name, *more]))


def contents(run: Path) -> dict[str, bytes]:
    """What a stopped run and one that was never stopped share."""
    kept = ("metrics.jsonl", "rollouts/*", "eval/*/*", f"checkpoints/*{STEPS}/*")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for pattern in kept
        for path in sorted(run.glob(pattern))
    }


@pytest.fixture(scope="module")
def straight(playground: Playground, tspo: Tspo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    tspo(*command(playground, run))
    return run


@pytest.mark.parametrize(
    ("name", "code", "moment", "number", "saved"),
    [
        ("SIGTERM", 143, "update", 3, 2),
        ("SIGINT", 130, "weights", 2, 2),
        ("SIGUSR1", 138, "records", 3, 3),
        ("SIGHUP", 129, "evaluation-inside", 1, 2),
        ("SIGTERM", 143, "evaluation-inside", 2, 4),
        ("SIGTERM", 143, "checkpoint", 1, 4),
    ],
)
def test_a_signal_leaves_the_last_whole_step(
    playground: Playground,
    straight: Path,
    tmp_path: Path,
    name: str,
    code: int,
    moment: str,
    number: int,
    saved: int,
) -> None:
    run = tmp_path / "run"
    codes, said = run_prepared(sent(moment, number, name), *command(playground, run))
    assert (codes, "Traceback" in said) == ([code], False)
    status = read_json(run / "status.json")
    assert (status["state"], status["step"]) == ("stopped", saved)
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{saved:06}"]
    done = run_tspo(*command(playground, run, "--resume"))
    assert done.code == 0, done.err
    wanted, found = contents(straight), contents(run)
    assert [key for key in wanted if wanted[key] != found.get(key)] == []


def test_a_second_signal_does_not_keep_the_status_from_the_disk(
    playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    act = "tests.training.launch.moments:stop_twice"
    codes, said = run_prepared(act, *command(playground, run, checkpoint__every=1))
    assert (codes, "Traceback" in said) == ([143], False), said
    status = read_json(run / "status.json")
    assert (status["state"], status["step"]) == ("stopped", 1)


@pytest.mark.parametrize("other", ["", "thesis.txt"])
def test_a_run_that_is_moved_goes_on_where_it_is(
    playground: Playground, straight: Path, tmp_path: Path, other: str
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    act = f"tests.training.launch.moments:move:update:3:{run}:{moved}:{other}"
    words = ("--set", "checkpoint.every=1", "--set", "checkpoint.keep=1")
    codes, said = run_prepared(act, *command(playground, run, *words))
    assert codes == [1], said
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert f"{run}: was moved or deleted while this run wrote it" in errors[0]
    left = [path.name for path in run.iterdir()] if run.exists() else []
    assert left == ([other] if other else []), "nothing is written where it was"
    done = run_tspo(*command(playground, moved, *words, "--resume"))
    assert done.code == 0, done.err
    wanted, found = contents(straight), contents(moved)
    assert [key for key in wanted if wanted[key] != found.get(key)] == []


def test_rollouts_are_abandoned(playground: Playground, tmp_path: Path) -> None:
    run = tmp_path / "run"
    codes, said = run_prepared(sent("rollouts", 1, "SIGTERM"), *command(playground, run))
    assert (codes, read_json(run / "status.json")["step"]) == ([143], 0)
    assert "SIGTERM: stopped after step 0" in said
    assert not (run / "checkpoints").exists(), "before the first step there is nothing to write"


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)]
)
def test_a_signal_to_the_group_of_a_sweep_counts_once(
    playground: Playground, tmp_path: Path, name: str, code: int
) -> None:
    run = tmp_path / "run"
    act = f"tests.training.launch.moments:group:weights:2:{name}"
    codes, said = run_prepared(act, *command(playground, run))
    assert (codes, "Traceback" in said) == ([code], False)
    assert read_json(run / "status.json")["step"] == 2
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_000002"]


def test_a_second_signal_to_the_group_ends_at_once(playground: Playground, tmp_path: Path) -> None:
    run = tmp_path / "run"
    act = "tests.training.launch.moments:group:weights:2:SIGINT:SIGINT"
    assert run_prepared(act, *command(playground, run), timeout=20)[0] == [130]
    assert not list((run / "checkpoints").glob("*"))


def test_a_second_signal_ends_at_once(playground: Playground, tmp_path: Path) -> None:
    run = tmp_path / "run"
    codes, said = run_prepared(
        sent("weights", 2, "SIGTERM", "", 2), *command(playground, run), timeout=20
    )
    assert codes == [143]
    assert "Traceback" not in said
    assert read_json(run / "status.json")["state"] == "stopped"
    assert not list((run / "checkpoints").glob("*"))


def test_no_checkpoint_is_written_where_none_is_wanted(
    playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    line = command(playground, run, checkpoint__every=0)
    codes, _ = run_prepared(sent("records", 2, "SIGTERM"), *line)
    assert codes == [128 + signal.SIGTERM]
    assert len(read_jsonl(run / "metrics.jsonl")) == 2
    assert not (run / "checkpoints").exists()


@pytest.fixture(scope="module")
def straight_pair(
    playground: Playground, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    run = tmp_path_factory.mktemp("pair") / "run"
    line = command(playground, run, train__steps=STEPS)
    codes, said = run_prepared("", *line, ranks=2)
    assert codes == [0, 0], said
    return run, line


@pytest.mark.parametrize(
    ("name", "code", "moment", "number", "ranks", "saved"),
    [
        ("SIGTERM", 143, "rollouts", 2, "1", 0),  # one process alone gets it
        ("SIGTERM", 143, "records", 3, "", 3),  # a process group gets it
        ("SIGUSR1", 138, "evaluation-inside", 1, "0", 2),
        ("SIGINT", 130, "update", 2, "1", 1),
    ],
)
def test_processes_stop_at_the_same_step(
    playground: Playground,
    straight_pair: tuple[Path, list[str]],
    tmp_path: Path,
    name: str,
    code: int,
    moment: str,
    number: int,
    ranks: str,
    saved: int,
) -> None:
    run = tmp_path / "run"
    act = sent(moment, number, name, ranks)
    codes, said = run_prepared(act, *command(playground, run), ranks=2)
    assert (codes, "Traceback" in said) == ([code, code], False)
    status = read_json(run / "status.json")
    if moment == "rollouts":
        assert status["state"] == "stopped"
        return
    assert (status["state"], status["step"] - saved in (0, 1)) == ("stopped", True)
    codes, said = run_prepared("", *command(playground, run, "--resume"), ranks=2)
    assert codes == [0, 0], said
    wanted, found = contents(straight_pair[0]), contents(run)
    assert [key for key in wanted if wanted[key] != found.get(key)] == []


@pytest.mark.parametrize(
    ("kind", "ranks", "cause"),
    [
        ("memory", "1", "memory ran out (no room for 123 MB)"),
        ("disk", "", "RUN/best: no space left on device"),  # both processes at once
        ("stall", "1", "nothing got further for 6 seconds (train.stall_limit)"),
        ("killed", "1", "process 1 of 2 gave no sign of life for"),
    ],
)
def test_a_lost_process_ends_the_others(
    playground: Playground, tmp_path: Path, kind: str, ranks: str, cause: str
) -> None:
    run = tmp_path / "run"
    line = command(playground, run, train__stall_limit=6)
    act = "tests.training.launch.moments:fail:" + f"update:2:{kind}:{ranks}"
    start = time.monotonic()
    codes, said = run_prepared(act, *line, ranks=2, timeout=50)
    assert time.monotonic() - start < 45
    assert codes[0] == 1
    errors = [text for text in said.splitlines() if text.startswith("error:")]
    assert (len(errors), cause in errors[0], "Traceback" in said) == (1, True, False), said
    assert read_json(run / "status.json")["state"] == "failed"


def test_a_slow_process_is_waited_for(playground: Playground, tmp_path: Path) -> None:
    line = command(playground, tmp_path / "run", train__steps=1, train__stall_limit=6)
    act = "tests.training.launch.moments:fail:rollouts:1:slow:1"
    codes, said = run_prepared(act, *line, ranks=2)
    assert codes == [0, 0], said


def test_checkpoints_by_time(playground: Playground, tspo: Tspo, tmp_path: Path) -> None:
    run = tmp_path / "run"
    values = {"checkpoint__every": 0, "checkpoint__minutes": 1e-6, "checkpoint__keep": 9}
    tspo(*command(playground, run, train__steps=2, eval__every=0, **values))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step_000001",
        "step_000002",
    ]
