"""The sizes of a model whose parameters no formula counts: it is built without memory for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.model_size import used_share
from tspo_cli.models.load_model import model_config
from tspo_cli.training.planning.model_shape import ModelShape


def counted_shape(folder: Path) -> ModelShape:
    """Sizes from the configuration in `folder`, parameters from the model that transformers makes
    of it.

    `intermediate` is the width of a gated MLP with as many parameters as those of a block that a
    token goes through: its experts, beside those that are shared, and all of a dense block.

    Raises:
        InvalidInputError: transformers cannot build the model, or it lacks a size.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = model_config(folder)
    text = config.get_text_config()
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        heads = int(text.num_attention_heads)
        hidden, layers = int(text.hidden_size), int(text.num_hidden_layers)
    except Exception as error:  # libraries raise anything on configurations that do not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInputError(
            f"{folder / 'config.json'}: no model can be built of it to count its parameters "
            f"({reason})"
        ) from error
    total = sum(value.numel() for value in model.parameters())
    experts = sum(value.numel() for value in model.parameters() if value.dim() == 3)
    active = total - round(experts * (1 - used_share(text, model)))
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(text, "head_dim", None) or hidden // heads)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    outside = text.vocab_size * hidden * (1 if tied else 2) + hidden
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    return ModelShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=max(1, round(((active - outside) / layers - attention) / (3 * hidden))),
        vocabulary=int(text.vocab_size),
        tied=tied,
        qkv_bias=False,
        counted=total,
        active=active,
    )
