"""Rules that end a run early: `METRIC < NUMBER for N`, true in each of the last N steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tspo_cli.errors import InvalidInputError

_RULE = re.compile(
    r"\s*([\w/]+)\s*([<>])\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s+for\s+([1-9]\d*)\s*"
)


@dataclass(frozen=True, slots=True)
class StopRule:
    """`metric` below (or above) `limit` in each of the last `steps` steps."""

    text: str
    metric: str
    below: bool
    limit: float
    steps: int

    def holds(self, rows: Sequence[Mapping[str, float]]) -> bool:
        """True if the rule holds; `rows` are the metrics of all steps so far. It does not hold if
        one of the last steps lacks the metric.
        """
        last = rows[-self.steps :]
        return len(last) == self.steps and all(
            self.metric in row
            and (row[self.metric] < self.limit if self.below else row[self.metric] > self.limit)
            for row in last
        )


def parse_rules(texts: Sequence[str]) -> list[StopRule]:
    """The rules of train.stop_when.

    Raises:
        InvalidInputError: a text that is not a rule.
    """
    rules = []
    for text in texts:
        match = _RULE.fullmatch(text)
        if match is None:
            raise InvalidInputError(
                f'train.stop_when: expected "METRIC < NUMBER for STEPS" (or >), got "{text}"'
            )
        metric, sign, limit, steps = match.groups()
        rules.append(StopRule(text.strip(), metric, sign == "<", float(limit), int(steps)))
    return rules
