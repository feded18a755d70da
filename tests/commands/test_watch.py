"""tspo runs watch: what it shows, when it ends, and its exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.commands.report_cli import tspo
from tests.reporting.tree import make_run
from tspo_cli import runs
from tspo_cli.config.schema import Config
from tspo_cli.disk import one_writer
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.reporting.inspect import follow
from tspo_cli.reporting.inspect.follow import FollowedRun
from tspo_cli.reporting.inspect.run_progress import screen_of, sparkline


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("failed", 1), ("stopped", 1)])
def test_a_run_that_is_over_is_shown_once(state: str, code: int, tmp_path: Path) -> None:
    make_run(tmp_path / "run", Config(), 4, {0: 0.1, 4: 0.3}, state=state)
    done = tspo("runs", "watch", tmp_path / "run")
    assert done.exit_code == code
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"run {state}  step 4/")
    assert "EM 0.3" in line


def test_a_run_that_was_killed_ends_the_watch(tmp_path: Path) -> None:
    make_run(tmp_path / "run", Config(), 2, {}, state="running")
    with one_writer(tmp_path / "run", "training in it"):
        pass
    done = tspo("runs", "watch", tmp_path / "run")
    assert done.exit_code == 1
    assert done.stdout.startswith("run killed")


def test_json_is_a_line_for_each_look_with_the_last_values(tmp_path: Path) -> None:
    make_run(tmp_path / "run", Config(), 4, {0: 0.1, 4: 0.3})
    record = json.loads(tspo("runs", "watch", tmp_path / "run", "--json").stdout)
    last = runs.read_jsonl(tmp_path / "run" / runs.METRICS_NAME)[-1]
    assert record["metrics"]["loss"] == last["loss"]
    assert record["evaluations"][-1] == {"step": 4, "dataset": "test", "em": 0.3, "f1": 0.3}
    assert (record["state"], record["step"], record["seconds_left"]) == ("finished", 4, None)


def test_a_running_run_says_the_time_left_and_ends_with_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = Config.model_validate({"train": {"steps": 10}})
    make_run(run, config, 4, {0: 0.1}, state="running")
    with one_writer(run, "training in it"):
        watched = subprocess.Popen(
            [sys.executable, "-m", "tspo_cli", "runs", "watch", str(run), "--every", "0.1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watched.stdout is not None
        first = watched.stdout.readline()
        seen = FollowedRun(run).look()
        assert first.startswith("run running  step 4/10")
        assert " left" in first
        assert seen.seconds_left == pytest.approx(6 * (seen.seconds_per_step or 0))
        runs.set_status(run, "finished", 4, 1)
    rest = watched.stdout.read()
    assert watched.wait(60) == 0
    assert rest.startswith("run finished")


def test_a_terminal_shows_curves_and_no_control_characters_of_the_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run", Config(), 60, {0: 0.1})
    runs.set_status(tmp_path / "run", "finished", 60, 1, ["bad \x1b]0;title\x07 words"])
    screen = screen_of(FollowedRun(tmp_path / "run").look())
    assert re.search(r"^loss +[\d.]+  [▁-█]{48}$", screen, re.MULTILINE)
    ours, theirs = pty.openpty()
    shown = subprocess.Popen(
        [sys.executable, "-m", "tspo_cli", "runs", "watch", str(tmp_path / "run")], stdout=theirs
    )
    os.close(theirs)
    text = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            text += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    assert shown.wait(60) == 0
    assert "▁" in text.decode()
    assert b"\x1b]0;" not in text


@given(st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_a_curve_has_a_bar_for_each_step_up_to_its_width(values: list[float]) -> None:
    bars = sparkline(values, 48)
    assert len(bars) == min(len(values), 48)
    assert set(bars) <= set("▁▂▃▄▅▆▇█")
    if len(values) <= 48 and len(set(values)) > 1:
        assert bars[values.index(max(values))] == "█"
        assert bars[values.index(min(values))] == "▁"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e100"])
def test_numbers_that_cannot_be_drawn(value: str, tmp_path: Path) -> None:
    """Records of earlier versions have NaN; what is not finite counts as not measured."""
    run = tmp_path / "run"
    make_run(run, Config(), 4, {})
    for name, key in ((runs.METRICS_NAME, "loss"), (runs.TIMINGS_NAME, "total")):
        with open(run / name, "a") as file:
            file.write(f'{{"step": 5, "{key}": {value}}}\n{{"step": 6, "{key}": -1e100}}\n')
    (run / "digests.jsonl").unlink(missing_ok=True)
    seen = FollowedRun(run).look()
    assert len(seen.curves["loss"]) == (6 if value == "1e100" else 5)
    bars = re.search(r"^loss .*  ([▁-█]+)$", screen_of(seen), re.MULTILINE)
    assert bars is not None
    assert len(bars[1]) == len(seen.curves["loss"])


def test_a_run_beyond_its_steps_has_no_time_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, Config.model_validate({"train": {"steps": 3}}), 4, {}, state="running")
    with one_writer(run, "training in it"):
        assert FollowedRun(run).look().seconds_left is None


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    done = tspo("runs", "watch", tmp_path / "nothing")
    assert isinstance(done.exception, MissingResourceError)


def add_step(run: Path, step: int, **values: float) -> None:
    runs.append_jsonl(run / runs.METRICS_NAME, {"step": step, "loss": float(step), **values})
    runs.append_jsonl(run / runs.TIMINGS_NAME, {"step": step, "total": 2.0, "retrieval_p99": 0.5})


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the evaluations, and after a line that was written in two parts."""
    run = tmp_path / "run"
    make_run(run, Config.model_validate({"train": {"steps": 9}}), 4, {0: 0.1}, state="running")
    lines: list[bytes] = []
    scores: list[Path] = []
    parse, read_scores = follow.parse_lines, follow.scores_of

    def parsed(found: Sequence[bytes], path: Path, first: int = 1) -> list[dict[str, Any]]:
        lines.extend(found)
        return parse(found, path, first)

    def scores_of(path: Path) -> dict[str, Any]:
        scores.append(path)
        return read_scores(path)

    monkeypatch.setattr(follow, "parse_lines", parsed)
    monkeypatch.setattr(follow, "scores_of", scores_of)
    with one_writer(run, "training in it"):
        followed = FollowedRun(run)
        assert (followed.look().step, len(lines), len(scores)) == (4, 8, 1)
        lines.clear()
        assert followed.look() == FollowedRun(run).look()
        lines.clear()
        add_step(run, 5)
        with open(run / runs.METRICS_NAME, "a") as torn:
            torn.write('{"step": 6, "lo')
        seen = followed.look()
        assert (seen.step, seen.curves["loss"][-1], len(lines)) == (5, 5.0, 2)
        assert seen.curves["retrieval_p99"] == [0.5]
        with open(run / runs.METRICS_NAME, "a") as torn:
            torn.write('ss": 6.5}\n')
        seen = followed.look()
        assert (seen.step, seen.curves["loss"][-1], len(lines)) == (6, 6.5, 3)
        assert len(scores) == 2, "once by each of two"
        assert seen == FollowedRun(run).look()


def test_a_run_that_is_resumed_from_an_earlier_step_is_read_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, Config.model_validate({"train": {"steps": 9}}), 6, {0: 0.1}, state="running")
    with one_writer(run, "training in it"):
        followed = FollowedRun(run)
        assert followed.look().step == 6
        for name in (runs.METRICS_NAME, runs.TIMINGS_NAME):
            runs.keep_steps_up_to(run / name, 3)
        for step in (4, 5):  # as long as before, with other values
            add_step(run, step)
        runs.set_status(run, "running", 5, 2)
        seen = followed.look()
        assert (seen.step, len(seen.curves["loss"])) == (5, 5)
        assert seen == FollowedRun(run).look()


def test_what_was_changed_meanwhile_is_noticed_at_the_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, Config.model_validate({"train": {"steps": 4}}), 4, {0: 0.1}, state="running")
    with one_writer(run, "training in it"):
        followed = FollowedRun(run)
        followed.look()
        runs.set_status(run, "finished", 4, 1)
        runs.seal_run(run)
        metrics = run / runs.METRICS_NAME
        metrics.write_text(metrics.read_text().replace("1", "2", 1))
        with pytest.raises(InvalidInputError, match=r"metrics\.jsonl: differs from its digest"):
            followed.look()
