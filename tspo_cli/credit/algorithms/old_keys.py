"""Keys of earlier versions, in which the options of all algorithms stood flat in [credit]."""

from __future__ import annotations

from collections.abc import Mapping

OLD_KEYS: Mapping[str, str] = {
    "credit.mt_turns": "credit.mt_grpo.turns",
    "credit.mt_coef": "credit.mt_grpo.coef",
    "credit.mt_execution": "credit.mt_grpo.execution",
    "credit.mt_hit": "credit.mt_grpo.hit",
    "credit.gigpo_coef": "credit.gigpo.coef",
    "credit.gigpo_similarity": "credit.gigpo.similarity",
    "credit.gigpo_population": "credit.gigpo.population",
    "credit.information_gain": "credit.igpo.information_gain",
    "credit.igpo_norm": "credit.igpo.norm",
    "credit.belief_prefix": "credit.igpo.belief_prefix",
    "credit.keep_per_question": "credit.rejection_sampling.keep_per_question",
    "credit.keep_above": "credit.rejection_sampling.keep_above",
}
"""From the old dotted name to the new one."""
