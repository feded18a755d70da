"""Dynamic sampling (DAPO): groups without an advantage are replaced by those of more rollouts."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import Config
from tspo_cli.training.core.distributed import all_sum, gather_json
from tspo_cli.training.rl.scoring import ScoredGroup


def needs_refill(groups: Sequence[ScoredGroup], config: Config) -> bool:
    """True where fewer groups than a step trains on have an advantage, over all processes."""
    count = all_sum([sum(group.has_advantage for group in groups)])[0]
    return count < config.rollout.questions_per_step


def groups_with_advantage(groups: Sequence[ScoredGroup], config: Config) -> list[ScoredGroup]:
    """This process's share of the groups that the step trains on: the first
    rollout.questions_per_step of the batch that have an advantage.
    """
    candidates = [group for group in groups if group.has_advantage]
    positions = gather_json([group.position for group in candidates])
    in_order = sorted(position for part in positions for position in part)
    chosen = set(in_order[: config.rollout.questions_per_step])
    return [group for group in candidates if group.position in chosen]
