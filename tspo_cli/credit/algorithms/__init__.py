"""Credit algorithms by name. A new one is a file of its own, and its import and entry here.

`by_outcome` has those that compare whole rollouts, `by_turn` those that tell turns apart, `by_tree`
those for rollouts that share turns.
"""

from __future__ import annotations

from collections.abc import Mapping

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import Algorithm, algorithm
from tspo_cli.credit.algorithms.by_outcome.dapo import dapo
from tspo_cli.credit.algorithms.by_outcome.dr_grpo import dr_grpo
from tspo_cli.credit.algorithms.by_outcome.grpo import grpo
from tspo_cli.credit.algorithms.by_outcome.gspo import gspo
from tspo_cli.credit.algorithms.by_outcome.reinforce_pp import reinforce_pp, reinforce_pp_baseline
from tspo_cli.credit.algorithms.by_outcome.rejection_sampling import rejection_sampling
from tspo_cli.credit.algorithms.by_outcome.retrieval_bonus import retrieval_bonus
from tspo_cli.credit.algorithms.by_outcome.rloo import rloo
from tspo_cli.credit.algorithms.by_outcome.stratified_grpo import stratified_grpo
from tspo_cli.credit.algorithms.by_tree.arpo import arpo
from tspo_cli.credit.algorithms.by_tree.at2po import at2po
from tspo_cli.credit.algorithms.by_tree.sipo import sipo
from tspo_cli.credit.algorithms.by_tree.tree_grpo import tree_grpo
from tspo_cli.credit.algorithms.by_turn.a2tgpo import a2tgpo
from tspo_cli.credit.algorithms.by_turn.carl import carl
from tspo_cli.credit.algorithms.by_turn.cw_grpo import cw_grpo
from tspo_cli.credit.algorithms.by_turn.gigpo import gigpo
from tspo_cli.credit.algorithms.by_turn.igpo import igpo
from tspo_cli.credit.algorithms.by_turn.mig import mig
from tspo_cli.credit.algorithms.by_turn.mt_grpo import mt_grpo
from tspo_cli.credit.algorithms.by_turn.ppo import ppo
from tspo_cli.credit.algorithms.by_turn.siop import siop
from tspo_cli.credit.algorithms.by_turn.tips import tips
from tspo_cli.credit.algorithms.by_turn.tspo import tspo

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
    a2tgpo,
    mig,
    tips,
    siop,
    cw_grpo,
    carl,
    stratified_grpo,
    tree_grpo,
    arpo,
    at2po,
    sipo,
    retrieval_bonus,
    rejection_sampling,
)

ALGORITHMS: Mapping[str, Algorithm] = {entry.name: entry for entry in _ALGORITHMS}
"""In the order in which they are listed to users. The first one is the default."""
