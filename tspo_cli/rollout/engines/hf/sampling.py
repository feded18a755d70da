"""Samples one token per row of logits by inverse CDF, from one uniform number per token."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import threshold

from tspo_cli.errors import TspoError

_LEAST_LOGPROB, _LEAST = -87.3, 1.3e-38
"""The smallest normal float32 is between the two. Processors take up to 20 times as long for the
exponential of what is below it.
"""


def uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) for a request's first `count` tokens. They depend on its seed alone
    (Philox generator).
    """
    return np.random.Generator(np.random.Philox(key=seed & ((1 << 64) - 1))).random(count)


def sample(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None = None,
    top_p: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [rows] and their log-probabilities [rows] (nats, before the filters). Of a row with
    logits that are not finite both mean nothing; the log-probability is NaN.

    Args:
        logits: [rows, vocabulary], any floating type. They are converted to float32.
        uniform: [rows] in [0, 1), float64.
        temperature: [rows] float32. 0 takes the most probable token, with its log-probability at
            temperature 1.
        top_k: [rows] int64, 0 keeps all tokens. None if no row has a filter.
        top_p: [rows] float32, 1 keeps all tokens. None if no row has a filter.
    """
    greedy = temperature == 0
    scaled = logits.float() / torch.where(greedy, 1.0, temperature)[:, None]
    logprobs = torch.log_softmax(scaled, dim=-1)
    if bool(greedy.all()):
        tokens = logprobs.argmax(-1)
    else:
        probabilities = threshold(logprobs.clamp_min(_LEAST_LOGPROB).exp(), _LEAST, 0.0)
        if top_k is not None and top_p is not None:
            probabilities = probabilities * filtered_tokens(probabilities, top_k, top_p)
        tokens = _inverse_cdf(probabilities, uniform)
        if bool(greedy.any()):
            tokens = torch.where(greedy, logprobs.argmax(-1), tokens)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def finite(logprobs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The log-probabilities of sampled tokens themselves.

    Raises:
        TspoError: one is no number, so that its token means nothing.
    """
    if not np.isfinite(logprobs).all():
        raise TspoError(
            "the log-probabilities of the policy are not numbers: its weights diverged or are "
            "damaged; go on from an earlier checkpoint, or lower optimizer.lr"
        )
    return logprobs


def filtered_tokens(
    probabilities: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """The tokens that pass both filters, bool [rows, vocabulary]: the `top_k` most probable ones of
    the smallest set whose probability reaches `top_p`.

    The most probable token always passes. Of equally probable tokens, the lower id comes first.
    """
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probabilities.shape[-1], device=probabilities.device)
    k = torch.where(top_k > 0, top_k, probabilities.shape[-1])
    before = ordered.cumsum(-1) - ordered
    p = torch.where(top_p < 1, top_p, torch.inf)
    keep = (rank < k[:, None]) & ((before < p[:, None]) | (rank == 0))
    return torch.zeros_like(keep).scatter(-1, order, keep)


def _inverse_cdf(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    # Strictly below the total: so there is a larger entry, and the token of the first one has a
    # probability above 0.
    level = torch.minimum(
        (uniform * total).to(total.dtype), torch.nextafter(total, torch.zeros_like(total))
    )
    tokens = torch.searchsorted(cumulative, level[:, None], right=True)[:, 0]
    return tokens.clamp(max=probabilities.shape[-1] - 1)  # where a probability is NaN
