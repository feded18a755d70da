"""Log-probabilities of sampled tokens, computed in the same way by engines and learner."""

from __future__ import annotations

from typing import Literal

import torch
import torch.utils.checkpoint

from tspo_cli.models.own_logits import Logits

# Up to this number logits are kept for the backward pass: 256 MiB in float32 for each copy.
KEPT_LOGITS = 2**26
# Larger numbers are computed in portions of this size; a GPU is efficient with larger products.
LOGITS_AT_ONCE = {"cpu": 2**25, "cuda": 2**27}


def sampled_logprobs(
    logits: torch.Tensor, ids: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probabilities (nats, float32) of `ids` [...] under `logits` [..., V] divided by
    `temperature`.

    Temperature 0 (greedy decoding) counts as 1.
    """
    scaled = _scaled(logits, temperature)
    return scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def head_scores(
    hidden: torch.Tensor,
    logits_of: Logits,
    vocabulary: int,
    ids: torch.Tensor,
    temperature: float = 1.0,
    entropy: Literal["none", "logged", "trained"] = "none",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of `ids` [N] and entropies (0 where "none"; without gradient where
    "logged"), float32 [N], from hidden states [N, d] and the model's logits of them [N,
    vocabulary].

    More than `KEPT_LOGITS` logits are computed for some rows at a time, in the backward pass as
    well: a long batch or a large vocabulary needs no more memory than `LOGITS_AT_ONCE` logits and
    a few copies of them.
    """
    rows = _rows_at_once(len(ids), vocabulary, LOGITS_AT_ONCE[hidden.device.type])
    if len(ids) <= rows:
        return _scores(hidden, ids, logits_of, temperature, entropy)
    portions = zip(hidden.split(rows), ids.split(rows), strict=True)
    if torch.is_grad_enabled():
        scored = [
            torch.utils.checkpoint.checkpoint(
                _scores, *portion, logits_of, temperature, entropy, use_reentrant=False
            )
            for portion in portions
        ]
    else:
        scored = [_scores(*portion, logits_of, temperature, entropy) for portion in portions]
    logprobs, entropies = zip(*scored, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _rows_at_once(count: int, vocabulary: int, most: int) -> int:
    """All rows if their logits can be kept, else the number of rows with `most` logits."""
    return max(count, 1) if count * vocabulary <= KEPT_LOGITS else max(1, most // vocabulary)


def _scores(
    hidden: torch.Tensor, ids: torch.Tensor, logits_of: Logits, temperature: float, entropy: str
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits_of(hidden)
    logprobs = sampled_logprobs(logits, ids, temperature)
    if entropy == "none":
        return logprobs, torch.zeros_like(logprobs)
    with torch.set_grad_enabled(entropy == "trained" and torch.is_grad_enabled()):
        return logprobs, token_entropy(logits, temperature)


def token_entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Entropy (nats, float32) of the distribution of each row of `logits` [..., V]."""
    logprobs = _scaled(logits, temperature).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits.float() if temperature in (0.0, 1.0) else logits.float() / temperature
