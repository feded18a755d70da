"""Which earlier tokens the layers of a model attend to: all of them, or those in a window."""

from __future__ import annotations

from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"


def layer_kinds(model: Any) -> set[str]:
    """The kinds of the model's layers, in the words of transformers: full_attention,
    sliding_attention and others.
    """
    config = model.config.get_text_config()
    named = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if named:
        return {FULL if kind == "attention" else str(kind) for kind in named}
    return {SLIDING if getattr(config, "sliding_window", None) else FULL}


def attention_window(model: Any, length: int) -> int | None:
    """Tokens of the sliding window, the present one included; None where no layer has one that is
    shorter than `length` tokens.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if SLIDING not in layer_kinds(model) or not window or window >= length:
        return None
    return int(window)


def attention_problem(model: Any) -> str | None:
    """What keeps `model` from causal attention in all layers: a phrase for an error message, None
    if nothing does.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        return "an encoder beside its decoder"
    unknown = layer_kinds(model) - {FULL, SLIDING}
    if unknown:
        return f"layers of kind {', '.join(sorted(unknown))}"
    if getattr(model, "_is_stateful", False):
        return "a recurrent state in place of keys and values"
    return None
