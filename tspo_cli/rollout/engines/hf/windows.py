"""Masks for models with sliding windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tspo_cli.models.attention_kinds import FULL, SLIDING, attention_window, layer_kinds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class WindowMasks:
    """What a model expects as its attention mask: one mask, or one for each kind of layer.

    `window` is None where no layer has a window shorter than a session.
    """

    window: int | None
    by_kind: bool

    @classmethod
    def of(cls, model: PreTrainedModel, max_context: int) -> WindowMasks:
        """The masks for sessions of at most `max_context` tokens."""
        kinds = layer_kinds(model)
        return cls(attention_window(model, max_context), kinds == {FULL, SLIDING})

    def __call__(self, mask: torch.Tensor, positions: torch.Tensor) -> Any:
        """The argument `attention_mask` for an additive `mask` [rows, 1, width, columns], in which
        every earlier token is visible, and `positions` [rows, width].
        """
        if self.window is None:
            return {FULL: mask, SLIDING: mask} if self.by_kind else mask
        columns = torch.arange(mask.shape[-1], device=mask.device)
        too_old = columns <= positions[:, None, :, None] - self.window
        sliding = mask.masked_fill(too_old, torch.finfo(mask.dtype).min)
        return {FULL: mask, SLIDING: sliding} if self.by_kind else sliding
