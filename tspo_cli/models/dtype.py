"""The number formats of a policy: of its weights, its products, and its logits.

A CPU without instructions for bfloat16 multiplies it at a sixth of its speed in float32, and in
backward passes at less (Zen 1). Converting both sides, multiplying in float32 and rounding
the result once is as exact as those instructions, which add up in float32 too.

Rounded to bfloat16, logits of 16 to 32 lie 0.125 apart. Engine and learner round at other places,
so that the output head alone makes a large part of the difference of their log-probabilities.
"""

from __future__ import annotations

import platform
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from tspo_cli.errors import InvalidInputError


def torch_dtype(name: Literal["auto", "float32", "bfloat16"], device: str) -> torch.dtype:
    """The torch type of config.model.dtype; auto is float32 on a CPU and bfloat16 on a GPU."""
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def has_bfloat16() -> bool:
    """Whether PyTorch multiplies bfloat16 with instructions of this CPU.

    oneDNN also takes bfloat16 on an x86 CPU that has AVX-512 alone, and then converts it.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def product_dtype(*, bfloat16: bool) -> torch.dtype:
    """The type in which a large model multiplies on this CPU, see `multiply_in_float32`."""
    return torch.bfloat16 if bfloat16 and has_bfloat16() else torch.float32


class _Product(torch.autograd.Function):
    """x W^T + b. It keeps its inputs in bfloat16 for the backward pass, as PyTorch's own does."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        added = None if bias is None else bias.float()
        return functional.linear(x.float(), weight.float(), added).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        gradient = gradients[0].float()
        rows = gradient.flatten(0, -2)
        return (
            (gradient @ weight.float()).to(x.dtype) if of_x else None,
            (rows.T @ x.flatten(0, -2).float()).to(weight.dtype) if of_weight else None,
            rows.sum(0).to(weight.dtype) if of_bias else None,
        )


class Float32Product(nn.Linear):
    """A linear layer of bfloat16 weights that multiplies in float32 and rounds the result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs], both in bfloat16."""
        result: torch.Tensor = _Product.apply(x, self.weight, self.bias)
        return result


def multiply_in_float32(model: nn.Module) -> None:
    """Make the plain linear layers of `model` with bfloat16 weights multiply in float32, in place.
    Parameters and results stay bfloat16.
    """
    for part in model.modules():
        if type(part) is nn.Linear and part.weight.dtype == torch.bfloat16:
            # A copy of the model has it too, unlike a method that is bound to this layer.
            part.__class__ = Float32Product


class Float32Head(nn.Linear):
    """An output head that computes in float32, whatever the type of its weights and inputs."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., d] -> logits [..., V] in float32."""
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(hidden.float(), self.weight.float(), bias)


def use_float32_head(model: Any) -> None:
    """Make the causal language model compute its logits in float32, in place. Its parameters stay
    as they are, and what it does to its logits afterwards is done in float32.

    Raises:
        InvalidInputError: its output head is no plain linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) not in (nn.Linear, Float32Product):
        raise InvalidInputError(
            f"model.float32_head: the output head of {type(model).__name__} is a "
            f"{type(head).__name__}, no plain linear layer; set it to false"
        )
    # A copy of the model has it too, unlike a method that is bound to this head.
    head.__class__ = Float32Head
