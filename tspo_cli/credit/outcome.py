"""The reward of the final answer (U11)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tspo_cli.credit.group import CreditTrajectory
from tspo_cli.credit.text import exact_match, f1_score

_ACTION = re.compile(r"<(search|answer)>.*?</\1>", re.DOTALL)
_ACTION_TAG = re.compile(r"</?(?:search|answer)>")


def outcome_reward(trajectory: CreditTrajectory, golds: Sequence[str], form: str) -> float:
    """em: 0 or 1. f1: 0 to 1. em_format: 1 for an exact match in which every turn is well formed, else 0."""
    if form == "f1":
        return f1_score(trajectory.answer, golds)
    correct = exact_match(trajectory.answer, golds)
    if form == "em_format":
        correct = correct and all(well_formed(turn.generated) for turn in trajectory.turns)
    return float(correct)


def well_formed(generated: str) -> bool:
    """Exactly one search or answer block and balanced think tags. Text that was not recorded counts as well formed."""
    if not generated:
        return True
    one_action = len(_ACTION.findall(generated)) == 1 and len(_ACTION_TAG.findall(generated)) == 2
    return one_action and generated.count("<think>") == generated.count("</think>")
