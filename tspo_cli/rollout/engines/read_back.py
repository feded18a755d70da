"""Whether an engine computes with the weights that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def different_weight(
    parameters: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> str | None:
    """The first name in both whose values differ, in the parameter's dtype.

    A parameter may have more rows, which pad a vocabulary. One of another shape is left out: an
    engine may fuse, pack or shard it.
    """
    for name, value in weights.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.shape[1:] != value.shape[1:]:
            continue
        held = parameter[: len(value)]
        if len(held) == len(value) and not bool((held == value.to(held.device, held.dtype)).all()):
            return name
    return None
