"""SIPO: AT2PO without the bias of its selection.

Trees grow where the policy is most uncertain, so that branches come from selected turns. If value
and uncertainty are related, the mean of the branches is not that of the policy.

Equation: V = V_AT2PO - weight * a * h(rank, n) for a branch whose turn was number rank of n by
uncertainty u, then AT2PO. a = Cov(u, V) / Var(u) with u in standard deviations, and h is Blom's
approximation of the expected order statistic of n standard normal values: h = Phi^-1((n - rank + 1
- 3/8) / (n + 1/4)).

Source: the released code, read by others (the form of the correction, Blom's h, a = Cov / Var:
certain). There a is that of the previous batch; here it is that of the question's own branches, so
that credit depends on the group alone and a resumed run needs no state. Fewer than `least_branches`
branches, equal uncertainties, and turns that were drawn at random (rank 0) correct nothing. That u
is standardised is inferred. Without branches it is GRPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist, fmean, pstdev

from pydantic import Field

from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last
from tspo_cli.credit.algorithms.by_outcome.grpo import grpo
from tspo_cli.credit.algorithms.by_tree.at2po import At2poOptions, leaf_values, turn_values
from tspo_cli.credit.algorithms.by_tree.tree_shape import is_branched, nodes
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.rollout.branch import Branch


class SipoOptions(At2poOptions):
    """The table [credit.sipo]."""

    weight: float = Field(1.0, ge=0, description="Weight of the correction. 0: AT2PO.")
    least_branches: int = Field(
        3, ge=2, description="Fewest branches of a question that are corrected."
    )


@algorithm(options=SipoOptions, defaults={"tree.branching": "uncertain", "loss.ratio": "turn"})
def sipo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: SipoOptions
) -> AlgorithmResult:
    """A_n = V_n of the corrected values."""
    if not is_branched(nodes(trajectories)):
        return grpo(trajectories, config)
    leaves, populations = leaf_values(trajectories, config, options.leaves)
    selected = {
        index: branch
        for index, trajectory in enumerate(trajectories)
        if (branch := trajectory.trajectory.branch) is not None and branch.rank
    }
    slope = 0.0
    if len(selected) >= options.least_branches:
        slope = _slope(
            [branch.uncertainty for branch in selected.values()],
            [leaves[index] for index in selected],
        )
    if slope:
        for index, branch in selected.items():
            leaves[index] -= options.weight * slope * order_statistic(branch)
    return AlgorithmResult(
        outcomes_last(trajectories),
        turn_values(trajectories, leaves, options.temperature),
        "turn",
        populations,
        reason="SIPO takes from a branch what its uncertain turn alone lets expect "
        f"({slope:.4f} per standard deviation), and values turns as AT2PO does.",
        formula="Advantage of a last turn = its standardised outcome less that; of an earlier one "
        "= the softmax-weighted mean of its continuations' advantages.",
    )


def order_statistic(branch: Branch) -> float:
    """h(rank, n), in standard deviations."""
    size = branch.candidates
    return NormalDist().inv_cdf((size - branch.rank + 1 - 3 / 8) / (size + 1 / 4))


def _slope(uncertainties: Sequence[float], values: Sequence[float]) -> float:
    """Cov(u, V) / Var(u), u in standard deviations; 0 where one of them is constant."""
    deviation = pstdev(uncertainties)
    if not deviation or len(set(values)) == 1:
        return 0.0
    mean, level = fmean(uncertainties), fmean(values)
    products = [
        (one - mean) / deviation * (value - level)
        for one, value in zip(uncertainties, values, strict=True)
    ]
    return fmean(products)
