"""Steps from which nothing can be learnt are called so, in one sentence that says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.training.rl.step_warnings import StepWarnings

PASSAGE = {"id": "p", "contents": '"T"\ntext', "score": 1.0}


def turn(kind: str, passages: int = 1) -> dict[str, Any]:
    found = [PASSAGE] * passages if kind == "search" else []
    return {"kind": kind, "passages": found, "search_error": None}


def group(*kinds: str, outcomes: tuple[float, ...] = (0.0, 0.0), passages: int = 1) -> Any:
    answer = "a" if "answer" in kinds else None
    turns = [turn(kind, passages) for kind in kinds]
    rollouts = [{"answer": answer, "turns": turns, "outcome": outcome} for outcome in outcomes]
    return {"trajectories": rollouts}


def said(steps: int, groups: list[Any], *settings: str, **metrics: float) -> list[str]:
    warnings = StepWarnings(load_config([], settings))
    row = {key.replace("__", "/"): value for key, value in metrics.items()}
    return [line for step in range(1, steps + 1) for line in warnings.of_step(step, groups, row)]


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (("invalid", "invalid", "truncated"), ["6 of 6 turns", "2 cut", "kind = "]),
        (("truncated",), ["all 2 turns were cut", "raise that limit"]),
        (("invalid",), ["does not know the protocol", "rollout.prompt"]),
    ],
)
def test_no_action_is_said_after_the_first_step(kinds: tuple[str, ...], words: list[str]) -> None:
    (line,) = said(1, [group(*kinds)])
    assert line.startswith("step 1: no rollout searched or answered")
    assert all(word in line for word in words), line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("truncated", [], "the only turn was cut at"),
        ("invalid", [], "1 of 1 turn without a complete tag"),
        ("search", [], "the only search found no passage"),
        ("answer", ['kind="rejection_sampling"'], "the only rollout was not good enough"),
    ],
)
def test_a_step_of_one_rollout_is_said_in_the_singular(
    kind: str, settings: list[str], words: str
) -> None:
    lines = said(1, [group(kind, outcomes=(0.0,), passages=0)], *settings, imitated=0)
    assert sum(words in line for line in lines) == 1, lines


def test_a_policy_that_acted_before_has_lost_the_protocol() -> None:
    warnings = StepWarnings(load_config([], ["optimizer.lr=0.03"]))
    good = [group("search", "answer", outcomes=(1.0, 0.0))]
    assert warnings.of_step(1, good, {}) == []
    (line,) = warnings.of_step(2, [group("invalid", "truncated")], {})
    assert "2 of 4 turns were cut" in line
    assert "has lost the protocol" in line
    assert "optimizer.lr (0.03 here)" in line
    assert "does not know" not in line


def test_it_is_repeated_sensibly() -> None:
    assert len(said(99, [group("invalid")])) == 2


def test_equal_rewards_are_said_after_some_steps_alone() -> None:
    groups = [group("search", "answer")]
    assert said(2, groups, groups__nonzero_advantage=0.0) == []
    (line,) = said(3, groups, groups__nonzero_advantage=0.0)
    assert line.startswith("steps 1 to 3: the reward was 0.000 in all rollouts")
    (easy,) = said(3, [group("answer", outcomes=(1.0, 1.0))], groups__nonzero_advantage=0.0)
    assert "too easy" in easy


def test_a_step_that_teaches_is_not_warned_of() -> None:
    groups = [group("search", "answer", outcomes=(1.0, 0.0))]
    assert said(12, groups, groups__nonzero_advantage=1.0) == []


def test_empty_searches_and_imitating_nothing_and_never_answering() -> None:
    (empty,) = said(1, [group("search", "answer", outcomes=(0.0, 1.0), passages=0)])
    assert "none of the 2 searches found a passage" in empty
    (nothing,) = said(1, [group("search", "answer")], 'kind="rejection_sampling"', imitated=0.0)
    assert "nothing was imitated" in nothing
    (never,) = said(3, [group("search", "search")])
    assert "no rollout gave an answer" in never


def test_a_step_of_which_most_rollouts_failed_is_called_so() -> None:
    lost = {"answer": None, "failed": True, "turns": [turn("search", 0) | {"search_error": "503"}]}
    groups = [group("search", "answer", outcomes=(0.0, 1.0)) | {"failed": [lost] * 3}]
    (line,) = said(1, groups, failed_share=0.6)
    assert line.startswith(
        "step 1: 60% of the rollouts failed and were not trained on, such as: 503"
    )
    assert said(1, groups, failed_share=0.5) == []
    (alone,) = said(1, [{"trajectories": [], "failed": [lost]}], failed_share=0.9)
    assert "90% of the rollouts" in alone


def test_rollouts_that_searched_and_failed_are_no_lost_protocol() -> None:
    """What is left of a step whose searches failed are the rollouts that never searched."""
    lost = {"answer": None, "failed": True, "turns": [turn("search", 0) | {"search_error": "503"}]}
    warnings = StepWarnings(load_config([], []))
    warnings.of_step(1, [group("search", "answer", outcomes=(1.0, 0.0))], {})
    for step in range(2, 6):
        left = [group("invalid", "truncated") | {"failed": [lost] * 3}]
        lines = warnings.of_step(step, left, {"failed_share": 0.6})
        assert not [line for line in lines if "no rollout" in line], lines


@pytest.mark.parametrize(
    ("algorithm", "advised"), [("grpo", True), ("rloo", True), ("tspo", False), ("gigpo", True)]
)
def test_an_algorithm_that_is_in_use_is_not_advised(algorithm: str, advised: bool) -> None:
    step = [group("search", "answer")]
    (line,) = said(3, step, f"credit.algorithm={algorithm}", groups__nonzero_advantage=0.0)
    assert ("credit.algorithm = tspo" in line) == advised, line
    assert "rollout.questions_per_step" in line
    assert ", or" in line
