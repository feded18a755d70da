"""The verdicts of a judge on the answers of rollouts, where these are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tspo_cli.credit.gold_match import exact_match
from tspo_cli.rollout.records import GroupRecord
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.training.rl.rollout_records import mean


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge makes of an answer: 1 (correct) or 0, or why there is no verdict."""

    verdict: float | None
    problem: str = ""


Asked = tuple[str, tuple[str, ...], str]
"""Question, golden answers, answer."""


class AnswerJudge(Protocol):
    """Judges answers. Each process has one, for its own rollouts."""

    def opinions(self, asked: Sequence[Asked]) -> list[Opinion]:
        """One opinion for each answer.

        Raises:
            RemoteServiceError: the judge's server answers nothing at all.
        """
        ...


def judged(trajectories: Sequence[Trajectory], judge: AnswerJudge) -> list[Trajectory]:
    """The trajectories with their verdicts. One without an answer is incorrect, and nobody is
    asked; one of which the judge gives no verdict has failed. Those that failed before stay.
    """
    waiting = [place for place, one in enumerate(trajectories) if not one.failed and _text(one)]
    asked = [
        (answered.question.question, answered.question.golden_answers, _text(answered))
        for answered in (trajectories[place] for place in waiting)
    ]
    opinions = dict(zip(waiting, judge.opinions(asked), strict=True))
    missing = Opinion(0.0)
    return [
        one if one.failed else _with_opinion(one, opinions.get(place, missing))
        for place, one in enumerate(trajectories)
    ]


def judge_metrics(groups: Sequence[GroupRecord]) -> dict[str, float]:
    """Metrics of the recorded rollouts of a step: judge (mean verdict) and, of those with an
    answer, judge_agreement (share with the verdict that exact match gives), judge_only and em_only
    (correct for one of the two alone).
    """
    rollouts = [
        (rollout, group["golden_answers"])
        for group in groups
        for rollout in group["trajectories"]
        if "judge" in rollout
    ]
    pairs = [
        (rollout["judge"], float(exact_match(rollout["answer"], golds)))
        for rollout, golds in rollouts
        if (rollout["answer"] or "").strip()
    ]
    return {
        "judge": mean([rollout["judge"] for rollout, _ in rollouts]),
        "judge_agreement": mean([float(verdict == em) for verdict, em in pairs]),
        "judge_only": mean([float(verdict > em) for verdict, em in pairs]),
        "em_only": mean([float(verdict < em) for verdict, em in pairs]),
    }


def _text(trajectory: Trajectory) -> str:
    return (trajectory.answer or "").strip()


def _with_opinion(trajectory: Trajectory, opinion: Opinion) -> Trajectory:
    return replace(trajectory, verdict=opinion.verdict, judge_error=opinion.problem)
