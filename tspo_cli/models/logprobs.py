"""Log-probabilities of sampled tokens: the one home of this computation for engines and learner."""

from __future__ import annotations

import torch
import torch.utils.checkpoint

ROWS_AT_ONCE = 1024


def sampled_logprobs(logits: torch.Tensor, ids: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities (nats, float32) of `ids` [...] under `logits` [..., V] divided by `temperature`.

    A temperature of 0 stands for greedy decoding and counts as 1.
    """
    scaled = _scaled(logits, temperature)
    return scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def hidden_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, ids: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """`sampled_logprobs` from hidden states [N, d] and head weights [V, d], for `ids` [N].

    Logits exist for a few rows at a time, also in the backward pass, so that a large vocabulary fits into memory.
    """
    parts = []
    for start in range(0, len(ids), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        if torch.is_grad_enabled():
            part = torch.utils.checkpoint.checkpoint(
                _row_logprobs, hidden[rows], head, ids[rows], temperature, use_reentrant=False
            )
        else:
            part = _row_logprobs(hidden[rows], head, ids[rows], temperature)
        parts.append(part)
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _row_logprobs(hidden: torch.Tensor, head: torch.Tensor, ids: torch.Tensor, temperature: float) -> torch.Tensor:
    return sampled_logprobs(torch.nn.functional.linear(hidden, head), ids, temperature)


def token_entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Entropy (nats, float32) of the distribution of each row of `logits` [..., V]."""
    logprobs = _scaled(logits, temperature).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits.float() if temperature in (0.0, 1.0) else logits.float() / temperature
