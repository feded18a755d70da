"""The number format of a policy."""

from __future__ import annotations

from typing import Literal

import torch


def torch_dtype(name: Literal["auto", "float32", "bfloat16"], device: str) -> torch.dtype:
    """The torch type of config.model.dtype; auto is float32 on a CPU and bfloat16 on a GPU."""
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
