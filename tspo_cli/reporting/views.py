"""What a report reads of a run directory: settings, state, metrics and evaluations, of any run in any state."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class RunView:
    """One run directory under the name that the report gives it."""

    path: Path
    name: str
    config: dict[str, Any]
    status: dict[str, Any]
    command: str

    @property
    def algorithm(self) -> str:
        """The credit algorithm, or sft for a run without one."""
        return "sft" if self.config.get("kind") == "sft" else str(self.setting("credit.algorithm", "?"))

    @property
    def state(self) -> str:
        """running, finished, failed, stopped, or unknown."""
        return str(self.status.get("state", "unknown"))

    def setting(self, key: str, default: Any = None) -> Any:
        """The value of a dotted configuration key, `default` where the run's file does not know it."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def metrics(self) -> list[dict[str, Any]]:
        """One record per training step, so far."""
        return _steps(self.path / "metrics.jsonl")

    def timings(self) -> list[dict[str, Any]]:
        """Seconds per training step, so far."""
        return _steps(self.path / "timings.jsonl")

    def evaluations(self) -> list[tuple[int, dict[str, Any]]]:
        """All scores as (step, scores), by step and data set."""
        return [
            (step, _object(path))
            for step, directory in runs.eval_steps(self.path)
            for path in sorted(directory.glob("*.json"))
        ]


def open_run(path: Path, name: str | None = None) -> RunView:
    """The view of one run directory.

    Raises:
        InvalidInputError: its configuration or status is not a JSON object.
        MissingResourceError: it has no configuration.
    """
    command = path / "command.txt"
    lines = command.read_text(encoding="utf-8").splitlines() if command.exists() else []
    status = path / "status.json"
    return RunView(
        path=path,
        name=name or path.resolve().name,
        config=_object(path / runs.CONFIG_NAME),
        status=_object(status) if status.exists() else {},
        command=lines[0] if lines else "",
    )


def open_runs(paths: Sequence[Path]) -> list[RunView]:
    """All runs at or below `paths`, named relative to what the paths have in common.

    Raises:
        MissingResourceError: a path does not exist or has no run below it.
    """
    found = list(dict.fromkeys(path.resolve() for path in runs.find_runs(paths)))
    bases = [path.resolve().parent if runs.is_run(path) else path.resolve() for path in paths]
    base = Path(os.path.commonpath(bases))
    return [open_run(path, path.relative_to(base).as_posix()) for path in found]


def unfinished(views: Iterable[RunView]) -> list[str]:
    """One sentence for every run that has not finished."""
    return [
        f"{view.name}: {view.state} at step {view.status.get('step', '?')} of {view.setting('train.steps', '?')};"
        " shown as far as it got"
        for view in views
        if view.state != "finished"
    ]


def _object(path: Path) -> dict[str, Any]:
    value = runs.read_json(path)
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _steps(path: Path) -> list[dict[str, Any]]:
    try:
        return runs.read_jsonl(path)
    except ValueError as error:
        raise InvalidInputError(f"{path}: not valid JSON lines ({error})") from None
