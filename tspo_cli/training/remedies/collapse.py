"""Signs that a policy collapses, from the metrics of its steps alone: a run that is resumed finds
the same ones.

Each compares the mean of a metric over the last `collapse.window` steps that have it with the best
mean over as many earlier steps. A fall counts where it is larger than the steps' own spread
explains; fewer searches, where the reward has fallen too. In GRPO with search the likelihood of
correct rollouts falls before the policy collapses (LLDS, arXiv 2512.04220, abstract).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean, pvariance

from tspo_cli.config.schema import CollapseConfig

LOWERED, RESETS = "lr_lowered", "resets"
"""Metrics: how often the learning rate was lowered, and weights were reset, up to this step."""
SCALE = "lr_scale"
"""Metric: what the learning rate is multiplied by, after all times that it was lowered."""
LEAST_SEARCHES = 0.2
"""A policy that never searched more often than this has nothing to unlearn."""
STANDARD_ERRORS = 6
"""A fall is larger than this many standard errors of the difference of the two means. (The best of
many means is high by chance alone.)
"""


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign of collapse after the last step. `lasted`: in how many steps in a row it was there."""

    metric: str
    sentence: str
    lasted: int


@dataclass
class _Level:
    """The last values of a metric, and the best mean of `window` values before the newest ones,
    with the variance of these values.
    """

    window: int
    values: deque[float] = field(init=False)
    best: float | None = None
    best_variance: float = 0.0
    lasted: int = 0

    def __post_init__(self) -> None:
        self.values = deque(maxlen=2 * self.window)

    def add(self, value: float) -> None:
        """Take the value of the next step."""
        self.values.append(value)
        if len(self.values) == 2 * self.window:
            before = list(self.values)[: self.window]
            if self.best is None or fmean(before) > self.best:
                self.best, self.best_variance = fmean(before), pvariance(before)

    @property
    def now(self) -> float:
        """The mean over the last steps."""
        return fmean(list(self.values)[-self.window :])

    @property
    def has_fallen(self) -> bool:
        """Whether the mean lies below the best one by more than the steps' spread explains."""
        if self.best is None:
            return False
        variance = self.best_variance + pvariance(list(self.values)[-self.window :])
        return self.best - self.now > STANDARD_ERRORS * sqrt(variance / max(1, self.window - 1))


class CollapseSigns:
    """Finds the signs of collapse in the metrics of a run's steps, which come in order.

    After a remedy the levels start anew: what it was for is not found again at once.
    """

    def __init__(self, config: CollapseConfig) -> None:
        self.config = config
        self.remedies = 0.0
        self.levels: dict[str, _Level] = {}

    def after(self, row: Mapping[str, float]) -> list[Sign]:
        """The signs after the step with the metrics `row`."""
        remedies = row.get(LOWERED, 0) + row.get(RESETS, 0)
        if remedies != self.remedies:
            self.remedies, self.levels = remedies, {}
        signs = []
        if "reward" in row:
            self.levels.setdefault("reward", _Level(self.config.window)).add(row["reward"])
        for metric, sentence_of in _SENTENCES.items():
            if metric not in row:
                continue
            level = self.levels.setdefault(metric, _Level(self.config.window))
            level.add(row[metric])
            sentence = None
            if level.best is not None and level.has_fallen and not self._has_learned(metric):
                sentence = sentence_of(self.config, level.best, level.now)
            level.lasted = level.lasted + 1 if sentence else 0
            if sentence:
                signs.append(Sign(metric, sentence, level.lasted))
        return signs

    def _has_learned(self, metric: str) -> bool:
        """Whether searches may fall because the policy needs fewer: the reward has not fallen."""
        reward = self.levels.get("reward")
        return (
            metric == "searches" and reward is not None and reward.now > 0 and not reward.has_fallen
        )


def _correct_logprob(config: CollapseConfig, best: float, now: float) -> str | None:
    if not config.logprob or now > best - config.logprob:
        return None
    return (
        f"the log-probability of correct rollouts fell from {best:.2f} to {now:.2f} nats per "
        "token: updates push right turns down with wrong ones; lower optimizer.lr, or keep the "
        "policy near its start (loss.kl)"
    )


def _searches(config: CollapseConfig, best: float, now: float) -> str | None:
    if not config.searches or best < LEAST_SEARCHES or now > (1 - config.searches) * best:
        return None
    return (
        f"searches per rollout fell from {best:.2f} to {now:.2f}: the policy unlearns to search; "
        "lower optimizer.lr, train on questions that need a search, or reward turns "
        "(credit.algorithm = tspo)"
    )


def _answered_share(config: CollapseConfig, best: float, now: float) -> str | None:
    if not config.answered or now > best - config.answered:
        return None
    return (
        f"rollouts with an answer fell from {best:.0%} to {now:.0%}: the policy avoids answers; "
        "lower optimizer.lr, or let a missing answer cost something (credit.outcome = f1_plus)"
    )


def _entropy(config: CollapseConfig, best: float, now: float) -> str | None:
    if not config.entropy or best <= 0 or now > (1 - config.entropy) * best:
        return None
    return (
        f"the entropy fell from {best:.3f} to {now:.3f} nats: the rollouts of a question become "
        "alike; raise loss.entropy or loss.clip_high, or lower optimizer.lr"
    )


_SENTENCES = {
    "correct_logprob": _correct_logprob,
    "searches": _searches,
    "answered_share": _answered_share,
    "entropy": _entropy,
}
"""Metric -> (config, best mean before, mean now) -> what has fallen and what helps, or None."""
