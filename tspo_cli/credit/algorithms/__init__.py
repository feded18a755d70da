"""Credit algorithms by name. A new one is a function in its own file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from tspo_cli.credit.algorithms.algorithm import Algorithm
from tspo_cli.credit.algorithms.dapo import dapo
from tspo_cli.credit.algorithms.dr_grpo import dr_grpo
from tspo_cli.credit.algorithms.gigpo import gigpo
from tspo_cli.credit.algorithms.grpo import grpo
from tspo_cli.credit.algorithms.gspo import gspo
from tspo_cli.credit.algorithms.igpo import igpo
from tspo_cli.credit.algorithms.mt_grpo import mt_grpo
from tspo_cli.credit.algorithms.ppo import ppo
from tspo_cli.credit.algorithms.reinforce_pp import reinforce_pp, reinforce_pp_baseline
from tspo_cli.credit.algorithms.rejection_sampling import rejection_sampling
from tspo_cli.credit.algorithms.retrieval_bonus import retrieval_bonus
from tspo_cli.credit.algorithms.rloo import rloo
from tspo_cli.credit.algorithms.tspo import tspo

__all__ = ["ALGORITHMS", "Algorithm"]

ALGORITHMS: Mapping[str, Algorithm] = {
    "tspo": Algorithm(tspo),
    "grpo": Algorithm(grpo),
    "dr_grpo": Algorithm(dr_grpo),
    "rloo": Algorithm(rloo),
    "reinforce_pp": Algorithm(reinforce_pp, whiten=True, compares=False),
    "reinforce_pp_baseline": Algorithm(reinforce_pp_baseline, whiten=True),
    "dapo": Algorithm(dapo),
    "gspo": Algorithm(gspo),
    "ppo": Algorithm(ppo, needs="critic", compares=False),
    "mt_grpo": Algorithm(mt_grpo),
    "gigpo": Algorithm(gigpo),
    "igpo": Algorithm(igpo, needs="gold_logprobs"),
    "retrieval_bonus": Algorithm(retrieval_bonus),
    "rejection_sampling": Algorithm(rejection_sampling, compares=False),
}
