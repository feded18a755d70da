"""Credit algorithms by name. A new one is a file of its own, and its import and entry here."""

from __future__ import annotations

from collections.abc import Mapping

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import Algorithm, algorithm
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

__all__ = ["ALGORITHMS", "Algorithm", "Section", "algorithm"]

_ALGORITHMS = (
    tspo,
    grpo,
    dr_grpo,
    rloo,
    reinforce_pp,
    reinforce_pp_baseline,
    dapo,
    gspo,
    ppo,
    mt_grpo,
    gigpo,
    igpo,
    retrieval_bonus,
    rejection_sampling,
)

ALGORITHMS: Mapping[str, Algorithm] = {entry.name: entry for entry in _ALGORITHMS}
"""In the order in which they are listed to users. The first one is the default."""
