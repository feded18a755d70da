"""A few random tokens that every way of computing log-probabilities has to agree on.

A model that tspo would compute wrongly must not start a run. The tokens go through the model's own
forward pass first; the learner and the engine are compared with it (`gap_problem`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tspo_cli.errors import InvalidInputError
from tspo_cli.models.attention_kinds import attention_problem

# Rounding explains smaller gaps: float32 sums in another order, bfloat16 keeps three digits.
LARGEST_GAP = {torch.float32: 1e-3, torch.float64: 1e-3}
LARGEST_MEAN_GAP = 0.25
# What changes attention or logits, for error messages alone.
_UNUSUAL = (
    "sliding_window",
    "attention_types",
    "attention_chunk_size",
    "alibi",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
)
_LENGTH = 24
_WINDOW = 10


@dataclass(frozen=True, slots=True)
class Probe:
    """Two sequences of token ids of different lengths, and the log-probability (nats) of each token
    but the first under the model's own forward pass.
    """

    sequences: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]


@contextmanager
def small_window(model: Any) -> Iterator[None]:
    """Within it, the sliding window of `model` has a few tokens: a short probe then shows whether
    a layer is computed with its window. Without a window nothing changes.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if not window:
        yield
        return
    config.sliding_window = min(window, _WINDOW)
    try:
        yield
    finally:
        config.sliding_window = window


@torch.no_grad()
def own_probe(model: Any, longest: int) -> Probe:
    """Random tokens with the log-probabilities that the model itself gives them. They leave room
    for two turns in sequences of at most `longest` tokens.

    Take and use it within `small_window`, so that a sliding window acts on it.

    Raises:
        InvalidInputError: the model is no causal language model, or has layers that tspo does not
        compute.
    """
    name = type(model).__name__
    problem = attention_problem(model)
    if problem is not None:
        raise InvalidInputError(
            f"{name} has {problem}; tspo trains decoders whose layers attend to earlier tokens"
        )
    vocabulary = int(model.config.get_text_config().vocab_size)
    length = max(4, min(_LENGTH, longest // 2))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(3, vocabulary - 1), vocabulary, (length,), generator=generator)
    changed = ids.clone()
    changed[length // 2 :] = ids[length // 2 :].flip(0) // 2
    both = torch.stack([ids, changed]).to(next(model.parameters()).device)
    try:
        rows = model(input_ids=both, use_cache=False).logits.float().log_softmax(-1)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInputError(f"{name}: its own forward pass fails ({reason})") from error
    before = length // 2
    if rows.isnan().any():
        raise InvalidInputError(
            f"{name}: its log-probabilities are NaN; the weights are damaged, or its numbers do "
            f"not fit into {str(model.dtype).removeprefix('torch.')}"
        )
    if not _same(rows[0, :before], rows[1, :before], model.dtype):
        raise InvalidInputError(
            f"{name} gives tokens other probabilities when later tokens change; expected a causal "
            "language model"
        )
    short = ids[: max(2, length // 3)]
    values = rows[0, :-1].gather(-1, both[0, 1:, None])[:, 0].tolist()
    return Probe(
        (tuple(ids.tolist()), tuple(short.tolist())),
        (tuple(values), tuple(values[: len(short) - 1])),
    )


def largest_gap(own: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """The largest difference (nats) of values of the same tokens. NaN if one is."""
    return float(torch.tensor(_gaps(own, others)).max())


def _gaps(own: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> list[float]:
    return [
        abs(ours - theirs)
        for row, own_row in zip(others, own, strict=True)
        for ours, theirs in zip(row, own_row, strict=True)
    ]


def gap_problem(model: Any, own: Probe, logprobs: Sequence[Sequence[float]]) -> str | None:
    """What is wrong with other log-probabilities of the probe: a phrase for an error message, None
    if rounding explains the difference from the model's own.
    """
    gaps = _gaps(own.logprobs, logprobs)
    largest, mean = largest_gap(own.logprobs, logprobs), sum(gaps) / len(gaps)
    # Written so that NaN is a problem.
    exact = LARGEST_GAP.get(model.dtype)
    fine = largest <= exact if exact is not None else mean <= LARGEST_MEAN_GAP
    if fine:
        return None
    return (
        f"log-probabilities that differ by {largest:.3g} nats from its own "
        f"({unusual_options(model)})"
    )


def unusual_options(model: Any) -> str:
    """The options of a model's configuration that other decoders do not have, as `name value`; its
    kind where it has none.
    """
    config = model.config.get_text_config()
    options = {name: getattr(config, name, None) for name in _UNUSUAL}
    if options["alibi"] is None:  # BLOOM always has it and does not say so
        options["alibi"] = any("alibi" in name for name in dir(model.base_model))
    named = [f"{name} {value}" for name, value in options.items() if value not in (None, False)]
    return ", ".join(named) or f"model type {config.model_type}"


def _same(first: torch.Tensor, second: torch.Tensor, dtype: torch.dtype) -> bool:
    gap = (first - second).abs()
    return bool(gap.max() <= LARGEST_GAP[dtype] if dtype in LARGEST_GAP else gap.mean() <= 0.25)
