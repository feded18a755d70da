"""Which questions a step rolls out where that depends on earlier steps.

Questions from which nothing was learnt come back (data.recycle; arXiv 2606.10709, abstract), and
those that are too easy or too hard come less often (data.curriculum). How many rollouts a step has
does not change.

RUN/questions.jsonl has a line for each step: what was drawn, what came of it, what was left out.
It is the whole state: a pool is what these lines make of it, so that a run that is resumed draws
the same questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tspo_cli.config.schema import Config
from tspo_cli.data.question import Question
from tspo_cli.rollout.records import GroupRecord
from tspo_cli.training.rl.question_batches import BatchQuestion

RECYCLED_DRAWS = 1_000_000_007
"""The draw of a question that comes back for the first time: no epoch has it."""
_SKIPS = 2_000_003
"""Tells the random numbers of the curriculum from those of the epochs' orders."""
Name = tuple[str, str]
"""Data set and id of a question."""


@dataclass
class _Known:
    """What is known of a question: its rollouts, the right ones (exact match), how often it came
    back, and from which step on it waits to come back (None: it does not).
    """

    rollouts: int = 0
    right: int = 0
    returned: int = 0
    due: int | None = None


class QuestionPool:
    """Draws the questions of the steps, in order. Every process has the same one."""

    def __init__(
        self, questions: Sequence[Question], config: Config, lines: Iterable[Mapping[str, Any]]
    ) -> None:
        """`lines` are those of RUN/questions.jsonl for the steps so far."""
        self.questions, self.seed, self.options = questions, config.seed, config.data
        self.size = config.rollout.questions_per_step
        self.by_name = {(q.data_source, q.id): q for q in questions}
        self.known: dict[Name, _Known] = {}
        self.position = 0
        self.skipped: list[Name] = []
        self.orders: dict[int, Any] = {}
        for line in lines:
            self._learn(line)

    def draw(self, step: int) -> list[BatchQuestion]:
        """The questions of training step `step` (from 1): first those that come back, then the next
        ones of the order, without those that the curriculum leaves out.
        """
        batch = [
            BatchQuestion(self.by_name[name], RECYCLED_DRAWS + self.known[name].returned, place)
            for place, name in enumerate(self._returning(step))
        ]
        self.skipped = []
        while len(batch) < self.size:
            epoch, index = divmod(self.position, len(self.questions))
            question = self.questions[int(self._order(epoch)[index])]
            self.position += 1
            # Questions of a whole epoch at most are left out: the floor may be tiny.
            may_skip = len(self.skipped) < len(self.questions)
            if may_skip and self._is_left_out(question, epoch, index):
                self.skipped.append((question.data_source, question.id))
            else:
                batch.append(BatchQuestion(question, epoch, len(batch)))
        return batch

    def settle(
        self, step: int, batch: Sequence[BatchQuestion], records: Sequence[GroupRecord]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """The line of RUN/questions.jsonl for a step that rolled out `batch`, and its metrics.
        `records` are the groups of all processes; a question whose rollouts all failed has none.
        """
        found = {tuple(record["group"]): record for record in records}
        drawn = [_entry(drawn, found.get(tuple(drawn.group))) for drawn in batch]
        line = {
            "step": step,
            "position": self.position,
            "skipped": [list(name) for name in self.skipped],
            "drawn": drawn,
        }
        self._learn(line)
        known = self.known.values()
        return line, {
            "questions/recycled": float(sum(entry["from"] == "recycled" for entry in drawn)),
            "questions/waiting": float(sum(entry.due is not None for entry in known)),
            "questions/seen": float(len(self.known)),
            "questions/skipped": float(len(self.skipped)),
        }

    def _learn(self, line: Mapping[str, Any]) -> None:
        """Take what came of a step."""
        self.position = line["position"]
        for entry in line["drawn"]:
            known = self.known.setdefault((entry["question"][0], entry["question"][1]), _Known())
            known.rollouts += entry["rollouts"]
            known.right += entry["right"]
            known.returned += entry["from"] == "recycled"
            known.due = None
            if (
                self.options.recycle
                and not entry["signal"]
                and known.returned < self.options.recycle_most
            ):
                known.due = line["step"] + self.options.recycle_after

    def _returning(self, step: int) -> list[Name]:
        """The questions that come back, those that have waited longest first."""
        due = {name: known.due for name, known in self.known.items() if known.due is not None}
        waiting = sorted((name for name in due if due[name] <= step), key=lambda name: due[name])
        return waiting[: recycled_at_most(self.options.recycle, self.size)]

    def _is_left_out(self, question: Question, epoch: int, index: int) -> bool:
        """True where the curriculum leaves a question of the order out, until the next epoch."""
        known = self.known.get((question.data_source, question.id))
        if self.options.curriculum == "none" or known is None or not known.rollouts:
            return False
        share = known.right / known.rollouts
        chance = max(self.options.curriculum_floor, 4 * share * (1 - share))
        drawn = np.random.default_rng([self.seed, _SKIPS, epoch, index]).random()
        return bool(drawn >= chance)

    def _order(self, epoch: int) -> Any:
        """The order of an epoch, as without a pool."""
        if epoch not in self.orders:
            rng = np.random.default_rng([self.seed, epoch])
            self.orders = {epoch: rng.permutation(len(self.questions))}
        return self.orders[epoch]


def recycled_at_most(share: float, size: int) -> int:
    """How many of the `size` questions of a step may be ones that come back."""
    return math.floor(share * size + 1e-9)


def _entry(drawn: BatchQuestion, record: GroupRecord | None) -> dict[str, Any]:
    """What was drawn, and what came of it: its rollouts, and whether they taught anything."""
    rollouts = record["trajectories"] if record is not None else []
    return {
        "question": [drawn.question.data_source, drawn.question.id],
        "draw": drawn.draw,
        "from": "recycled" if drawn.draw >= RECYCLED_DRAWS else "order",
        "rollouts": len(rollouts),
        "right": sum(rollout["class"] == "success" for rollout in rollouts),
        "signal": record is not None and record["level"] != "none",
    }
