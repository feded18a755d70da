"""The longest sequence that an experiment can produce."""

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
