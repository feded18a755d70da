"""The longest sequence that an experiment can produce, and how many there are at once."""

from __future__ import annotations

from tspo_cli.config.schema import Config


def context_length(config: Config) -> int:
    """Tokens of the longest sequence: model.max_context if it is set, else the sum of the limits
    of prompt, turns and observations.
    """
    if config.model.max_context:
        return config.model.max_context
    rollout = config.rollout
    turns = (
        rollout.max_searches + 1
    ) * rollout.max_new_tokens + rollout.max_searches * rollout.max_observation_tokens
    return rollout.max_prompt_tokens + turns


def sequences_at_once(config: Config) -> int:
    """Sequences that the engine of a training holds at the same time, at most: of rollouts, or of
    questions that an evaluation answers.
    """
    rollout, limit = config.rollout, config.eval.limit
    most = rollout.batch_size
    if not config.tree.grows:  # trees may have more rollouts than group_size
        most = min(most, rollout.questions_per_step * rollout.group_size)
    answered = min(config.eval.batch_size, limit or config.eval.batch_size)
    return max(
        most if config.kind != "sft" else 1,
        answered if config.eval.data else 1,
    )
