"""Logits of chosen positions, as the model itself computes them from its last hidden states.

Some causal language models do more than multiply with their output head: they scale the logits
(Granite, Cohere), cap them (Gemma 2) or scale the hidden states. No list of such models is kept
here: `logit_function` runs the model's own forward pass behind its decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tspo_cli.errors import InvalidInputError

Logits = Callable[[torch.Tensor], torch.Tensor]
"""Hidden states [N, d] -> logits [N, V]."""

# Large enough that a cap or a scale of the logits shows in every data type.
_PROBE_SCALE = 64.0
_PROBE_ROWS = 4


def logit_function(model: Any) -> Logits:
    """The function from last hidden states to the logits of `model`, a causal language model.

    It is the output head alone where the model does nothing else, so that a plain model costs no
    more than its head.

    Raises:
        InvalidInputError: the logits do not follow from the decoder's last hidden states.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise InvalidInputError(
            f"{type(model).__name__} has no output head; expected a causal language model"
        )
    through_model = _ThroughModel(model)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        width = _width(model)
        probe = torch.randn(_PROBE_ROWS, width, generator=generator) * _PROBE_SCALE
        probe = probe.to(device, model.dtype)
        plain = head(probe) if _fits(head, width) else None
        own = through_model.or_none(probe)
    if own is None or plain is None:
        return _checked(model, head if own is None else through_model)
    return head if torch.allclose(own, plain, rtol=1e-3, atol=1e-3) else through_model


def _checked(model: Any, logits: Logits) -> Logits:
    """`logits` if they are the model's own on a few tokens."""
    device = next(model.parameters()).device
    ids = torch.arange(1, 6, device=device)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        own = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        try:
            same = torch.allclose(logits(hidden).log_softmax(-1), own, rtol=1e-2, atol=1e-2)
        except (RuntimeError, TypeError, ValueError, AttributeError):
            same = False
    if not same:
        raise InvalidInputError(
            f"{type(model).__name__} computes its logits from more than its last hidden states; "
            "tspo cannot train it"
        )
    return logits


class _ThroughModel:
    """The model's own forward pass with its decoder left out."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = str(model.base_model_prefix)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        decoder = getattr(self.model, self.name)
        setattr(self.model, self.name, _GivenHidden(decoder, hidden[None]))
        try:
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            return self.model(input_ids=ids, use_cache=False).logits[0]
        finally:
            setattr(self.model, self.name, decoder)

    def or_none(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """The logits; None where the model does not read what its decoder returns."""
        if getattr(self.model, self.name, None) is not self.model.base_model:
            return None
        try:
            one, other = self(hidden), self(-hidden)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
            return None
        return None if torch.equal(one, other) else one


class _GivenHidden(nn.Module):
    """A decoder whose last hidden states are known. Its other attributes are the decoder's."""

    def __init__(self, decoder: nn.Module, hidden: torch.Tensor) -> None:
        super().__init__()
        # Not registered as a submodule: nobody may find the decoder's parameters twice.
        object.__setattr__(self, "decoder_of_model", decoder)
        object.__setattr__(self, "hidden", hidden)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The hidden states, in the form in which decoders return them."""
        from transformers.modeling_outputs import MoeModelOutputWithPast

        return MoeModelOutputWithPast(last_hidden_state=self.hidden)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "decoder_of_model"), name)


def _width(model: Any) -> int:
    """The width of the decoder's last hidden states."""
    return int(model.config.get_text_config().hidden_size)


def _fits(head: Any, width: int) -> bool:
    return getattr(head, "in_features", width) == width
