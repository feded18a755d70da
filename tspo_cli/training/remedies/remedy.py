"""What `train.on_warning` does when a policy collapses.

Signs are found in metrics, and a remedy is taken at the beginning of the step that follows. So a
checkpoint between the two needs no state of its own: a run that is resumed from it finds the same
sign in the same metrics, and takes the same remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tspo_cli.training.launch.training_run import TrainingRun
from tspo_cli.training.remedies.best_checkpoint import load_best_checkpoint
from tspo_cli.training.remedies.collapse import LOWERED, RESETS, SCALE, CollapseSigns, Sign

_COUNTS = {"lower_lr": LOWERED, "reset_to_best": RESETS}
"""Remedy -> the metric that counts it."""


_NOWHERE = (
    "no evaluation has made a best checkpoint yet, so train.on_warning = reset_to_best has nothing "
    "to go back to; set eval.at_start, or a lower eval.every"
)
_BEST_NOW = (
    "the last evaluation is the best so far, so train.on_warning = reset_to_best waits for the "
    "next step; if the sign lasts, that goes back to it"
)


class Remedies:
    """Watches the metrics of a run and takes remedies. All processes call it alike."""

    def __init__(self, run: TrainingRun, rows: Sequence[Mapping[str, float]]) -> None:
        """`rows` are the metrics of the steps so far."""
        self.run, self.options = run, run.config.collapse
        self.name = run.config.train.on_warning
        self.signs = CollapseSigns(self.options)
        self.found: list[Sign] = []
        self.said: set[str] = set()
        for row in rows:
            self.found = self.signs.after(row)
        last = rows[-1] if rows else {}
        self.taken = {count: int(last.get(count, 0)) for count in _COUNTS.values()}
        # Steps of earlier versions have no scale; their runs kept one factor.
        self.scale = float(last.get(SCALE, self.options.lr_factor ** self.taken[LOWERED]))

    def before_step(self, step: int) -> dict[str, float]:
        """Take the remedy that the step before asks for. Returns the metrics that count remedies.
        What was lowered before stays as low as it was, whatever remedy and factor are now.
        """
        own = _COUNTS.get(self.name)
        if own and self.found and self.taken[own] < self.options.most:
            self._take(step, own)
        self.run.learner.core.rate_scale = self.scale
        counts = {name: float(count) for name, count in self.taken.items() if count or name == own}
        return counts | ({SCALE: self.scale} if LOWERED in counts else {})

    def after_step(self, step: int, row: Mapping[str, float]) -> None:
        """Look at the metrics of a step, and warn of what is new, or has lasted ten times as long
        as when it was said last.
        """
        self.found = self.signs.after(row)
        for sign in self.found:
            if sign.lasted in (1, 10, 100, 1000):
                self.run.warn(f"step {step}: {sign.sentence}")

    @property
    def stop_reason(self) -> str | None:
        """Why the run ends after the last step, None if it goes on."""
        if self.name != "stop" or not self.found:
            return None
        return f"{self.found[0].sentence} (train.on_warning = stop)"

    def _take(self, step: int, own: str) -> None:
        number = f"{self.taken[own] + 1} of at most {self.options.most}"
        if own == LOWERED:
            self.taken[own] += 1
            self.scale *= self.options.lr_factor
            self.run.warn(
                f"step {step}: the learning rate is {self.scale:g} times what it would be from "
                f"here on (train.on_warning = lower_lr, {number})"
            )
            return
        best = load_best_checkpoint(self.run, step - 1)
        if best is None or best == step - 1:
            why = _NOWHERE if best is None else _BEST_NOW
            if why not in self.said:
                self.run.warn(f"step {step}: {why}")
            self.said.add(why)
            return
        self.taken[own] += 1
        self.run.warn(
            f"step {step}: training goes on from the weights and optimiser of step {best}, the "
            f"best evaluated one (train.on_warning = reset_to_best, {number})"
        )
