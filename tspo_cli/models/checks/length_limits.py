"""What a model computes in another way once a sequence is longer than some limit.

A few tokens cannot show it: up to the limit such a model is like any other. Beyond it a token's
log-probability depends on the length of the whole sequence, or on attention that neither engine nor
learner keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError

ALLOW_LONG = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
"""The environment variable with which vLLM takes longer sequences than a model was made for."""
# Rotary embeddings whose frequencies change for all tokens when a sequence grows.
_GROWING_ROPES = ("dynamic", "longrope")
_SCALED_ROPES = ("linear", "dynamic", "yarn")
_SIZES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
_POSITIONS = ("max_position_embeddings", "original_max_position_embeddings")


def check_length(path: str | Path, model: Any, length: int) -> None:
    """Refuse sequences of `length` tokens if `model` computes them in another way than shorter
    ones. `path` names the model.

    Raises:
        InvalidInputError: the feature, and the longest sequence that is right.
    """
    for feature, limit in length_limits(model):
        if limit < length:
            raise InvalidInputError(
                f"{path}: {type(model).__name__} has {feature}, and a sequence may have {length} "
                f"tokens; set model.max_context to at most {limit}"
            )


def positions(model: Any) -> int:
    """The longest sequence that the model says it was made for, in tokens; 0: it does not say."""
    text = model.config.get_text_config()
    return max(0, int(getattr(text, "max_position_embeddings", 0) or 0))


def context_warnings(longest: int, made_for: int) -> Iterator[str]:
    """A sentence where sequences may have `longest` tokens, and the model was made for fewer."""
    if made_for and longest > made_for:
        yield (
            f"the limits add up to {longest:,} tokens for a rollout, but the model was made for "
            f"{made_for:,}; what comes after that is of no use; lower rollout.max_prompt_tokens, "
            f"max_new_tokens, max_observation_tokens or max_searches, or set model.max_context = "
            f"{made_for}"
        )


def check_vllm_length(path: str | Path, config: Any, length: int) -> None:
    """Refuse sequences of `length` tokens if vLLM would not start for them. `config` is that of the
    model at `path`.

    Raises:
        InvalidInputError: the longest sequence that vLLM takes, and what to set.
    """
    limit = vllm_length(config)
    if limit and length > limit and os.environ.get(ALLOW_LONG) != "1":
        raise InvalidInputError(
            f'{path}: was made for {counted(limit, "token")}, and with rollout.engine = "vllm" '
            f"prompt, turns and observations may have {length:,}; set model.max_context to at most "
            f"{limit}, or lower rollout.max_prompt_tokens, max_new_tokens, max_observation_tokens "
            "or max_searches"
        )


def vllm_length(config: Any) -> int:
    """The longest sequence that vLLM takes of a model: what its configuration says, times the
    factor of scaled rotary embeddings. 0: no limit is known.
    """
    config = config.get_text_config()
    sizes = [getattr(config, name, None) for name in _SIZES]
    longest = min((int(size) for size in sizes if size), default=0)
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        if rope.get("rope_type") in _SCALED_ROPES:
            original = int(rope.get("original_max_position_embeddings") or longest)
            longest = max(longest, int(original * (rope.get("factor") or 1)))
    return longest


def length_limits(model: Any) -> Iterator[tuple[str, int]]:
    """Features of `model` that act beyond a length, each with the last length without effect."""
    config = model.config.get_text_config()
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        kind = rope.get("rope_type")
        if kind in _GROWING_ROPES:
            sizes = [rope.get(name) or getattr(config, name, None) for name in _POSITIONS]
            limit = min(int(size) for size in sizes if size)
            yield f"{kind} rotary embeddings, which change beyond {counted(limit, 'token')}", limit
    if "local" in str(getattr(config, "attention_types", "")):
        yield f"local attention (window_size {config.window_size})", int(config.window_size)
    for name in ("keep_window_size", "index_topk"):
        if size := getattr(config, name, None):
            yield f"sparse attention ({name} {size})", int(size)
    if size := getattr(config, "index_topk_blocks", None):
        tokens = int(size) * int(config.index_block_size)
        yield f"sparse attention (index_topk_blocks {size})", tokens
    if rows := _learned_positions(model, config):
        yield f"learned positions for {counted(rows, 'token')}", rows


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rotary embeddings of a model: one, or one for each kind of layer."""
    if "rope_type" in parameters:
        yield parameters
    else:
        yield from (value for value in parameters.values() if isinstance(value, Mapping))


def _learned_positions(model: Any, config: Any) -> int:
    """The most tokens that a table of learned positions has rows for; 0 without such a table."""
    from torch import nn

    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and (last == "wpe" or "position" in last):
            return int(getattr(config, "max_position_embeddings", module.num_embeddings))
    return 0
