"""tspo plan says what it cannot estimate, and refuses options that would change nothing."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tspo_cli.commands.app import app
from tspo_cli.errors import UsageError


def test_where_no_time_is_estimated_the_plan_says_how_to_get_one() -> None:
    done = CliRunner().invoke(app, ["plan", "tiny/warmstart"])
    assert "time: not estimated; --rates RUN" in done.stdout
    timed = CliRunner().invoke(app, ["plan", "tiny/warmstart", "--gpus", "1"])
    assert "s a step" in timed.stdout
    assert "not estimated" not in timed.stdout


@pytest.mark.parametrize("more", [[], ["--rates", "runs/x"], ["--rates", "runs/x", "--gpus", "1"]])
def test_rollout_tokens_without_a_time_to_compute(more: list[str]) -> None:
    done = CliRunner().invoke(app, ["plan", "tiny/warmstart", "--rollout-tokens", "600", *more])
    assert isinstance(done.exception, UsageError)
    assert "--gpus N" in str(done.exception)
