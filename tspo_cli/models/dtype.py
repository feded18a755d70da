"""The number formats of a policy: of its weights, and of its logits.

Rounded to bfloat16, logits of 16 to 32 lie 0.125 apart. Engine and learner round at other places,
so that the output head alone makes a large part of the difference of their log-probabilities.
"""

from __future__ import annotations

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
    if type(head) is not nn.Linear:
        raise InvalidInputError(
            f"model.float32_head: the output head of {type(model).__name__} is a "
            f"{type(head).__name__}, no plain linear layer; set it to false"
        )
    # A copy of the model has it too, unlike a method that is bound to this head.
    head.__class__ = Float32Head
