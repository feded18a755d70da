"""Failed rollouts are counted by their number of searches: those with many fail more often."""

from __future__ import annotations

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.data.question import Question
from tspo_cli.errors import RemoteServiceError
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn
from tspo_cli.training.rl.rollout_checks import lost_shares
from tspo_cli.training.rl.step_warnings import StepWarnings


def rollout(searches: int, *, failed: bool = False, late: bool = False) -> Trajectory:
    """A rollout whose last search failed if `failed` is set."""
    turns = [
        Turn((1,), (-1.0,), "stop", "search", "x", query="q", hits=())
        for _ in range(searches - failed)
    ]
    if failed:
        turns.append(Turn((1,), (-1.0,), "stop", "search", "x", query="q", search_error="503"))
    question = Question("q", "who?", ("Bako",), "world")
    return Trajectory(GroupId("world", "q", 0), 0, question, (1,), tuple(turns), late=late)


def test_nothing_is_added_where_nothing_failed() -> None:
    assert lost_shares([rollout(0), rollout(3)], 1, 4) == {"failed_share": 0.0, "mixed_share": 0.0}


@pytest.mark.parametrize(
    ("rollouts", "shares"),
    [
        ([rollout(1), rollout(1), rollout(1), rollout(1, failed=True)], {1: 0.25}),
        (
            [rollout(1), rollout(1), rollout(4, failed=True), rollout(4), rollout(4, failed=True)],
            {1: 0.0, 4: 2 / 3},
        ),
        ([rollout(0, late=True), rollout(0), rollout(2)], {0: 0.5, 2: 0.0}),
        ([rollout(2, failed=True, late=True), rollout(3)], {2: 1.0, 3: 0.0}),
    ],
)
def test_the_share_of_failed_rollouts_by_searches(
    rollouts: list[Trajectory], shares: dict[int, float]
) -> None:
    metrics = lost_shares(rollouts, 1, 4)
    by_searches = {
        int(name.removeprefix("failed_share/searches_")): value
        for name, value in metrics.items()
        if "/" in name
    }
    assert by_searches == pytest.approx(shares)
    failed = sum(rollout.failed for rollout in rollouts)
    assert metrics["failed_share"] == pytest.approx(failed / len(rollouts))


def test_a_step_without_a_whole_rollout_ends_the_run_with_the_reason() -> None:
    with pytest.raises(RemoteServiceError, match=r"every rollout failed \(503\)"):
        lost_shares([rollout(1, failed=True), rollout(2, failed=True)], 3, 4)


def test_a_bias_against_searching_is_said_after_some_steps() -> None:
    biased = {"failed_share": 0.1, "failed_share/searches_1": 0.02, "failed_share/searches_4": 0.3}
    warnings = StepWarnings(load_config([], []))
    lines = [line for step in range(1, 4) for line in warnings.of_step(step, [], biased)]
    (line,) = lines
    assert line.startswith(
        "steps 1 to 3: 10% of the rollouts of the last step failed: 30% of those"
    )
    assert "with 4 searches, 2% of those with 1." in line
    for even in (
        {"failed_share": 0.01, "failed_share/searches_1": 0.0, "failed_share/searches_4": 0.03},
        {"failed_share": 0.3, "failed_share/searches_1": 0.3},
        {"failed_share": 0.3, "failed_share/searches_1": 0.4, "failed_share/searches_3": 0.2},
    ):
        warnings = StepWarnings(load_config([], []))
        assert [line for step in range(9) for line in warnings.of_step(step, [], even)] == []
