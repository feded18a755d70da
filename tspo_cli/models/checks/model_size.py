"""How many parameters a model has, in all and for one token."""

from __future__ import annotations

from typing import Any

LARGE = 50_000_000
"""Parameters. Smaller models spend more time between operations than in them."""


def is_large_on_cpu(model: Any) -> bool:
    """True for a model of more than `LARGE` parameters on a CPU."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return size > LARGE and next(model.parameters()).device.type == "cpu"


def size_of(parameter: Any) -> int:
    """Numbers in a parameter, also where ZeRO 3 keeps a shard of it here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def used_share(config: Any, model: Any) -> float:
    """The share of the experts that a token goes through; 1 for a model without any. transformers
    keeps all experts of a block in one tensor [experts, outputs, inputs].

    `config` is the configuration of the text model.
    """
    shapes = [getattr(value, "ds_shape", value.shape) for value in model.parameters()]
    count = max((shape[0] for shape in shapes if len(shape) == 3), default=1)
    names = ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token")
    used = next((size for name in names if (size := getattr(config, name, None))), count)
    return float(min(1.0, used / count))


def token_parameters(model: Any) -> tuple[float, float]:
    """Parameters that a token goes through, and those of them that have gradients."""
    share = used_share(model.config.get_text_config(), model)
    through = trained = 0.0
    for value in model.parameters():
        is_expert = len(getattr(value, "ds_shape", value.shape)) == 3
        size = size_of(value) * (share if is_expert else 1.0)
        through += size
        trained += size if value.requires_grad else 0.0
    return through, trained
