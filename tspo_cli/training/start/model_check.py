"""Compare what learner and engine compute with a model's own forward pass, before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.probe import (
    Probe,
    gap_problem,
    largest_gap,
    own_probe,
    small_window,
    unusual_options,
)
from tspo_cli.models.packed_attention import enable_packing
from tspo_cli.rollout.engines.hf.engine_check import check_engine
from tspo_cli.training.core.micro_batches import micro_batches
from tspo_cli.training.core.policy_learner import TrainedPositions
from tspo_cli.training.core.sequences import TrainSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def check_model(model: Any, tokenizer: PreTrainedTokenizerFast, config: Config) -> None:
    """Refuse a model that the learner or the rollout engine would compute in another way than its
    own forward pass does, before anything is trained.

    Raises:
        InvalidInputError: the first difference, and what to do.
    """
    with small_window(model):
        probe = own_probe(model, context_length(config))
        check_learner(model, probe, packed=config.train.packing)
        if config.rollout.engine == "transformers":
            check_engine(model, tokenizer, probe)


def check_learner(model: Any, own: Probe, *, packed: bool) -> None:
    """Refuse a model whose log-probabilities the learner would get wrong. `own` is `own_probe` of
    the model, taken before.

    Raises:
        InvalidInputError: the learner's values are not the model's own, or cannot be computed.
    """
    name = type(model).__name__
    if packed:
        enable_packing(model.base_model)
    advice = (
        "; set train.packing to false" if packed else "; tspo cannot train this architecture yet"
    )
    try:
        values = learner_logprobs(TrainedPositions(model, 1.0, "none"), own, packed=packed)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInputError(
            f"{name} ({unusual_options(model)}): the learner's {_form(packed)} fail "
            f"({reason}){advice}"
        ) from error
    problem = gap_problem(model, own, values)
    if problem is not None:
        raise InvalidInputError(f"{name}: the learner's {_form(packed)} give {problem}{advice}")


def learner_gap(model: Any, own: Probe, *, packed: bool) -> float:
    """The largest difference (nats) of the learner's log-probabilities from the model's own.

    `enable_packing` comes first where `packed` is true.
    """
    policy = TrainedPositions(model, 1.0, "none")
    return largest_gap(own.logprobs, learner_logprobs(policy, own, packed=packed))


@torch.no_grad()
def learner_logprobs(policy: TrainedPositions, own: Probe, *, packed: bool) -> list[list[float]]:
    """The learner's log-probability of each token of the probe but the first, by sequence."""
    rows = [TrainSequence(list(ids), [0.0] + [1.0] * (len(ids) - 1)) for ids in own.sequences]
    shares = [row.weights for row in rows]
    values = [[0.0] * (len(row.token_ids) - 1) for row in rows]
    budget = sum(len(row.token_ids) for row in rows) * 2
    for batch in micro_batches(rows, shares, budget, packed=packed):
        batch = batch.to(next(policy.parameters()).device)
        for number, index, value in zip(
            batch.sequences.tolist(), batch.indices.tolist(), policy(batch)[0].tolist(), strict=True
        ):
            values[batch.members[number]][index - 1] = value
    return values


def _form(packed: bool) -> str:
    return "packed rows (train.packing)" if packed else "padded batches"
