"""From the trajectories of a rollout to the group that credit assignment takes."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.group import CreditTrajectory, CreditTurn, Group
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.branch import Branch
from tspo_cli.rollout.records import GroupRecord, RolloutRecord
from tspo_cli.rollout.trajectory import Trajectory, Turn


def group_from_trajectories(
    trajectories: Sequence[Trajectory], gold_logprobs: Sequence[Sequence[float]] = ()
) -> Group:
    """The group of these rollouts, which must share their group id. Leave failed ones out
    beforehand.

    Only the feedback of searches is kept: what the protocol says about an invalid action is no
    evidence. `gold_logprobs`, where a model measured them, has a row for each trajectory.

    Raises:
        InvalidInputError: no trajectories, one without turns, or two group ids.
    """
    if not trajectories:
        raise InvalidInputError("a group needs at least one trajectory")
    ids = sorted({trajectory.group for trajectory in trajectories})
    if len(ids) > 1:
        raise InvalidInputError(
            f"a group needs one group id, got {tuple(ids[0])} and {tuple(ids[1])}"
        )
    question = trajectories[0].question
    beliefs = [tuple(row) for row in gold_logprobs] or [()] * len(trajectories)
    return Group(
        question=question.question,
        golden_answers=question.golden_answers,
        trajectories=tuple(
            CreditTrajectory(
                trajectory.answer,
                tuple(map(credit_turn, trajectory.turns)),
                row,
                trajectory.path,
                trajectory.branch,
                trajectory.verdict,
            )
            for trajectory, row in zip(trajectories, beliefs, strict=True)
        ),
    )


def group_from_record(record: GroupRecord) -> Group:
    """The group of one line of a run's recorded rollouts (`rollouts/step_*.jsonl.gz`), as training
    saw it.
    """
    return Group(
        question=record["question"],
        golden_answers=tuple(record["golden_answers"]),
        trajectories=tuple(
            CreditTrajectory(
                rollout["answer"],
                tuple(
                    CreditTurn(
                        turn["query"],
                        turn["feedback"] if turn["kind"] == "search" else "",
                        turn["text"],
                        turn["tokens"],
                    )
                    for turn in rollout["turns"]
                ),
                tuple(rollout.get("gold_logprobs") or ()),
                tuple(rollout.get("path") or ()),
                _branch(rollout),
                rollout.get("judge"),
            )
            for rollout in record["trajectories"]
        ),
    )


def _branch(rollout: RolloutRecord) -> Branch | None:
    if "branch" not in rollout:
        return None
    record = rollout["branch"]
    owners = tuple(rollout.get("path") or ())[: record["turns"]]
    return Branch(owners, record["rank"], record["candidates"], record["uncertainty"])


def credit_turn(turn: Turn) -> CreditTurn:
    """A turn as credit sees it: with the text that the model was shown after a search."""
    return CreditTurn(
        turn.query, turn.feedback if turn.kind == "search" else "", turn.text, len(turn.action_ids)
    )
