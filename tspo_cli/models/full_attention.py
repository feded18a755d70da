"""Which models attend from every token to all tokens before it."""

from __future__ import annotations

from typing import Any

_KNOWN_KINDS = {"full_attention", "sliding_attention"}


def full_attention_problem(model: Any, length: int) -> str | None:
    """What keeps `model` from full causal attention over sequences of `length` tokens: a phrase for
    an error message, None if nothing does.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or length
    if not kinds <= _KNOWN_KINDS:
        return f"layers of kind {', '.join(sorted(kinds - _KNOWN_KINDS))}"
    if "sliding_attention" in kinds and window < length:
        return f"a sliding window of {window} tokens, shorter than the {length} of a sequence"
    return None
