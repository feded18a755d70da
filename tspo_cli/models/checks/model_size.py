"""Whether a model is so large that matrix products take most of its time on a CPU."""

from __future__ import annotations

from typing import Any

LARGE = 50_000_000
"""Parameters. Smaller models spend more time between operations than in them."""


def is_large_on_cpu(model: Any) -> bool:
    """True for a model of more than `LARGE` parameters on a CPU."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return size > LARGE and next(model.parameters()).device.type == "cpu"
