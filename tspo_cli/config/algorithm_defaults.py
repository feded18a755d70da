"""Defaults that depend on the algorithm: what its source uses, for keys that the experiment leaves
open.

They are written into the resolved configuration, so that a run says what it did. A key that a file
or `--set` names is never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "dr_grpo": {"loss.aggregation": "sequence_sum"},
    "dapo": {
        "loss.clip_low": 0.2,
        "loss.clip_high": 0.28,
        "loss.dual_clip": 10.0,
        "loss.aggregation": "token_mean",
        "rollout.dynamic_sampling": True,
    },
    "gspo": {
        "loss.ratio": "sequence",
        "loss.clip_low": 3e-4,
        "loss.clip_high": 4e-4,
        "loss.aggregation": "sequence_mean",
    },
    "mt_grpo": {"credit.eps": 1e-4},
    "gigpo": {"credit.gamma": 0.95},
    "igpo": {"credit.outcome": "f1", "credit.std": "biased"},
}
"""By algorithm; sources are in the docstrings of `tspo_cli/credit/algorithms/`."""


def with_algorithm_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """`table` (as read from files and settings) with the defaults of its credit.algorithm where it
    says nothing.

    kind = "rejection_sampling" names the algorithm of the same name.
    """
    filled = {
        key: dict(value) if isinstance(value, dict) else value for key, value in table.items()
    }
    if filled.get("kind") == "rejection_sampling":
        _fill(filled, "credit.algorithm", "rejection_sampling")
    credit = filled.get("credit")
    algorithm = credit.get("algorithm") if isinstance(credit, dict) else None
    for name, value in (DEFAULTS.get(algorithm, {}) if isinstance(algorithm, str) else {}).items():
        _fill(filled, name, value)
    return filled


def _fill(table: dict[str, Any], name: str, value: Any) -> None:
    section, _, key = name.partition(".")
    inner = table.setdefault(section, {})
    if isinstance(inner, dict):  # anything else is refused when the table is checked
        inner.setdefault(key, value)
