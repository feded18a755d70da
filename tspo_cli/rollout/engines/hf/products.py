"""Products of rows with a weight matrix, x W^T + b."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from tspo_cli.models.dtype import Float32Head, has_bfloat16

Product = Callable[[torch.Tensor], torch.Tensor]
"""x [rows, inputs] -> [rows, outputs]."""

# Rows of the products that packed weights are arranged for. Others are correct, and about as fast.
_ROWS = 16


def can_pack(dtype: torch.dtype) -> bool:
    """Whether `packed_linear` works here for weights of this data type."""
    operations = torch.ops.mkldnn
    return (
        (dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16()))
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)  # train.portable switches it off
        and hasattr(operations, "_reorder_linear_weight")
        and hasattr(operations, "_linear_pointwise")
    )


def plain_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """The product with `weight` [outputs, inputs] itself."""
    return lambda x: functional.linear(x, weight, bias)


def packed_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """The product with a copy of `weight` [outputs, inputs] in the order in which oneDNN reads it.

    With few rows most of the time is reading weights, and a plain product rearranges them in every
    call. Needs `can_pack`.
    """
    operations = torch.ops.mkldnn
    packed = operations._reorder_linear_weight(weight.detach(), _ROWS)

    def product(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = operations._linear_pointwise(x, packed, bias, "none", [], "")
        return result

    return product


def packed_head(head: nn.Linear) -> Product:
    """The product of an output head, packed; in float32 where the head computes in it."""
    if not isinstance(head, Float32Head):
        return packed_linear(head.weight, head.bias)
    product = packed_linear(head.weight.float(), None if head.bias is None else head.bias.float())
    return lambda hidden: product(hidden.float())
