"""PPO (Schulman et al. 2017, arXiv 1707.06347) with a critic, as in Search-R1 (arXiv 2503.09516).

Equation: delta_t = r_t + gamma V_{t+1} - V_t, A_t = sum over l of (gamma lambda)^l delta_{t+l}
(GAE, arXiv 1506.02438) over the sampled tokens of a trajectory in a row: feedback between them is
part of the state and no step. The reward is the outcome at the last sampled token (minus the KL of
each token if loss.kl_in = "reward"). Defaults: [critic] gamma 1, lambda 1, value clip 0.5, learning
rate 1e-5, advantages standardised over sampled tokens (Search-R1's code standardises over feedback
positions too).
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last, repeat_over_turns
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


@algorithm(needs="critic", compares=False)
def ppo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """Turn rewards only: the critic of the training loop turns them into advantages."""
    return AlgorithmResult(
        outcomes_last(trajectories),
        repeat_over_turns([0.0] * len(trajectories), trajectories),
        "turn",
        reason="PPO's advantages come from a critic's values, token by token.",
        formula=(
            "Advantage = generalised advantage estimate; shown is the mean over the tokens of "
            "a turn."
        ),
    )
