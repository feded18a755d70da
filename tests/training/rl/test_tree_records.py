"""What a step makes of trees of which some rollouts are gone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from tspo_cli.config.load_config import load_config
from tspo_cli.data.question import Question
from tspo_cli.rollout.branch import Branch
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn
from tspo_cli.training.announce import loop_options
from tspo_cli.training.rl.early_warnings import warning_metrics
from tspo_cli.training.rl.rollout_checks import _checked_sequences
from tspo_cli.training.rl.rollout_records import step_records, tree_metrics
from tspo_cli.training.rl.scoring import ScoredGroup, score

CONFIG = load_config(["tiny/grpo"], ["credit.algorithm=tree_grpo", "rollout.group_size=4"])
GROUP = GroupId("world", "q", 0)
SEARCH = Turn((5,) * 4, (-1.0,) * 4, "stop", "search", "x", query="q")
ANSWER = Turn((6,) * 3, (-1.0,) * 3, "stop", "answer", "Bako", answer="Bako")


def rollout(number: int, *owners: int, turns: tuple[Turn, ...] = (SEARCH, ANSWER)) -> Trajectory:
    question = Question("q", "who?", ("Bako",), "world")
    return Trajectory(GROUP, number, question, (1,), turns, branch=Branch(owners))


def scored(*rollouts: Trajectory) -> list[ScoredGroup]:
    models: Any = SimpleNamespace(critic=None)
    return score(rollouts, {GROUP: 0}, CONFIG, models)


def test_a_dropped_owner_leaves_the_turns_that_it_shared() -> None:
    failed = replace(rollout(0), late=True)
    groups = scored(failed, rollout(1), rollout(2, 0), rollout(3, 0))
    (record,), _ = step_records(groups, {}, 1, CONFIG)
    # 4 + 3 of the whole rollout; the shared search once, and 3 of each branch.
    assert record["tree"] == {"sampled_tokens": 7 + 4 + 6, "flat_tokens": 28}
    assert warning_metrics([record], CONFIG.credit)["sampled_tokens"] == 17
    assert tree_metrics([record])["tree/shared_share"] == 1 - 17 / 21
    assert tree_metrics([record])["tree/searches"] == 2, "that of the whole one, and the shared one"
    (record,), _ = step_records(scored(failed, rollout(2, 0), rollout(3, 0)), {}, 1, CONFIG)
    assert "tree" not in record, "no whole rollout says what flat ones would cost"
    assert tree_metrics([record]) == {}


def test_a_branch_whose_first_request_is_refused_gets_no_credit() -> None:
    refused = replace(rollout(2, 0, turns=(SEARCH,)), refused="too long")
    (group,) = scored(rollout(0), rollout(1), refused)
    assert [one.sample for one in group.trajectories] == [0, 1]


def test_the_check_of_log_probabilities_sees_a_branch() -> None:
    other = replace(ANSWER, action_ids=(7,) * 3)
    rollouts = (*map(rollout, (0, 1, 2)), rollout(3, 0, turns=(SEARCH, other)), rollout(4, 0))
    found = _checked_sequences(scored(*rollouts), bfloat16=False)
    assert [list(sequence.token_ids[-3:]) for sequence in found] == [[6] * 3, [6] * 3, [7] * 3]
    assert len(_checked_sequences(scored(*rollouts[:3]), bfloat16=False)) == 2
    assert len(_checked_sequences(scored(rollouts[0], *rollouts[3:]), bfloat16=False)) == 2


def test_trees_are_announced_as_trees() -> None:
    text = "\n".join(loop_options(CONFIG))
    assert (
        "x trees of 2 whole rollouts and their branches (the tokens of 4 rollouts) a step" in text
    )
