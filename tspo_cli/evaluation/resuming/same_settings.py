"""What differs between an evaluation that is there and the one that would go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tspo_cli.config.tables import flatten
from tspo_cli.record_forms import SUMMARY, checked
from tspo_cli.runs import EVAL_SUMMARY_NAME, read_json, read_jsonl
from tspo_cli.training.launch.same_experiment import shown_change

SETTINGS = "settings"
"""The key of `answer_settings` in the first line of a journal."""
_SETTING_OF = {
    "answer": "eval.answer",
    "examples": "eval.examples",
    "judge": "judge.model or judge.prompt",
}
_IN_SETTINGS = ("config", "k")


def what_differs(
    before: str, now: str, settings: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> str:
    """The parts of two signatures that differ, with both values. In place of the digest of the
    configuration stand the settings, before and now, where they are known.
    """
    changes = {
        key: (settings[0][key], value)
        for key, value in settings[1].items()
        if key in settings[0] and settings[0][key] != value
    }
    old, new = _facts(before), _facts(now)
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name) and not (changes and name in _IN_SETTINGS):
            changes[_SETTING_OF.get(name, name)] = (old.get(name), new.get(name))
    return ", ".join(shown_change(key, change) for key, change in changes.items())


def recorded_settings(folder: Path) -> Mapping[str, Any]:
    """The settings, by key, that the evaluation in a folder was made or begun with; {} where no
    file has them.

    Raises:
        InvalidInputError: the file is damaged.
    """
    summary = folder / EVAL_SUMMARY_NAME
    if summary.exists():
        record = checked(SUMMARY, read_json(summary), str(summary))
        return flatten(record.get("config") or {})
    begun = [settings_of(read_jsonl(path)) for path in sorted(folder.glob("*.partial.jsonl"))]
    return next((settings for settings in begun if settings), {})


def settings_of(journal: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The settings in the first line of a journal; {} where it has none."""
    found = journal[0].get(SETTINGS) if journal else None
    return found if isinstance(found, dict) else {}


def _facts(signature: str) -> dict[str, str]:
    """The parts of a signature by name; one without a name is the signature itself."""
    parts = (part.partition(":") for part in signature.split("|"))
    return {name if mark else "signature": value if mark else name for name, mark, value in parts}
