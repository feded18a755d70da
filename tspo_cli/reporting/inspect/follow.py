"""A run directory that is looked at again and again: of what grows, only what is new is read."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.plain_files import open_plain
from tspo_cli.record_digests import check_complete, read_checked
from tspo_cli.record_forms import checked_step
from tspo_cli.reporting.inspect.run_progress import CURVES, OVER, Progress
from tspo_cli.reporting.sources.run_view import RunView, open_run, scores_of, status_of
from tspo_cli.text.strict_json import parse_lines

_RECENT = 20
"""Steps whose mean duration says how long the rest takes."""
_Version = tuple[int, int, int]
"""Of a file: inode, size, time of change."""


class ReplacedError(Exception):
    """A run does not go on where it was left."""


@dataclass
class GrowingLines:
    """The records of a JSONL file of steps that is added to."""

    path: Path
    inode: int = 0
    offset: int = 0
    lines: int = 0

    def new(self) -> list[dict[str, Any]]:
        """The records since the last call. At the first one the file is compared with its digest.

        Raises:
            ReplacedError: another file stands there, or the file is shorter now.
            InvalidInputError: see `runs.read_jsonl`.
        """
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return []
        if self.offset and (state.st_ino != self.inode or state.st_size < self.offset):
            raise ReplacedError
        if state.st_size == self.offset:
            return []
        if self.offset:
            with open_plain(self.path) as file:
                file.seek(self.offset)
                text = file.read()
        else:
            text = read_checked(self.path)
        whole = text[: text.rfind(b"\n") + 1]
        records = parse_lines(whole.split(b"\n")[:-1], self.path, self.lines + 1)
        self.inode, self.offset = state.st_ino, self.offset + len(whole)
        self.lines += whole.count(b"\n")
        return [checked_step(record, str(self.path)) for record in records]


@dataclass
class _Steps:
    """What is known of the steps of a run. `seconds` are those of the last steps."""

    done: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def add(self, record: Mapping[str, Any]) -> None:
        """A line of metrics or of timings."""
        self.done = max(self.done, int(record["step"]))
        # Earlier versions wrote NaN for what was not measured.
        measured = {name: value for name, value in record.items() if _is_finite(value)}
        for name in CURVES:
            if name in measured:
                self.curves.setdefault(name, []).append(float(measured[name]))
        if "total" in measured:
            self.seconds.append(measured["total"])


@dataclass
class FollowedRun:
    """A run directory, or a folder of `tspo eval`, whose progress is asked for again and again.

    What is there at the first look is compared with its digests. When the run has ended, or goes on
    from an earlier step, all of it is read again.
    """

    path: Path
    view: RunView = field(init=False)
    metrics: GrowingLines = field(init=False)
    timings: GrowingLines = field(init=False)
    steps: _Steps = field(init=False)
    scores: dict[Path, tuple[_Version, dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begin()

    def look(self) -> Progress:
        """How far the run is by now.

        Raises:
            TspoError: as `open_run`, or a record that cannot be read.
        """
        try:
            status = self._status()
            self._read_steps()
        except ReplacedError:
            self._begin()
            status = self.view.status
            self._read_steps()
        return self._progress(status)

    def _begin(self) -> None:
        self.view, self.steps = open_run(self.path), _Steps()
        self.metrics = GrowingLines(self.path / runs.METRICS_NAME)
        self.timings = GrowingLines(self.path / runs.TIMINGS_NAME)
        self.scores.clear()

    def _status(self) -> dict[str, Any]:
        """What the run says of itself now.

        Raises:
            ReplacedError: it has ended, or was resumed.
        """
        before = self.view.status
        if self.view.is_evaluation:
            return before
        now = status_of(self.path)
        ended = now.get("state") in OVER and before.get("state") != now.get("state")
        if ended or now.get("attempt") != before.get("attempt"):
            raise ReplacedError
        return now

    def _read_steps(self) -> None:
        for file in (self.metrics, self.timings):
            for record in file.new():
                self.steps.add(record)

    def _progress(self, status: Mapping[str, Any]) -> Progress:
        steps, seconds = self.view.setting("train.steps"), self.steps.seconds
        state = str(status.get("state") or ("unknown" if self.steps.done else "not started"))
        per_step = sum(seconds) / len(seconds) if seconds else None
        left = None
        if per_step is not None and isinstance(steps, int) and state == "running":
            left = max(0.0, per_step * (steps - self.steps.done)) or None
        curves = self.steps.curves
        return Progress(
            run=self.view.name,
            state=state,
            step=self.steps.done,
            steps=steps if isinstance(steps, int) else None,
            seconds_per_step=per_step,
            seconds_left=left,
            curves={name: [*curves[name]] for name in CURVES if name in curves},
            evaluations=[
                (step, str(scores.get("dataset")), scores.get("em"), scores.get("f1"))
                for step, scores in self._evaluations()
            ],
            warnings=list(status.get("warnings") or []),
        )

    def _evaluations(self) -> list[tuple[int, dict[str, Any]]]:
        """All scores as (step, scores); files that did not change are not read again."""
        if self.view.is_evaluation:
            return list(self.view.evaluations)
        found = []
        for step, folder in runs.eval_steps(self.path):
            check_complete(folder)
            for path in runs.scores_files(folder):
                state = path.stat()
                version = state.st_ino, state.st_size, state.st_mtime_ns
                if path not in self.scores or self.scores[path][0] != version:
                    self.scores[path] = version, scores_of(path)
                found.append((step, self.scores[path][1]))
        return found


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
