"""Compare what the transformers engine computes with the model's own forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.probe import Probe, gap_problem, largest_gap, unusual_options
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TURNS = 2
_MOST_NEW_TOKENS = 6


def check_engine(model: Any, tokenizer: PreTrainedTokenizerFast, probe: Probe) -> None:
    """Refuse a model whose log-probabilities the engine would get wrong over several turns.

    Raises:
        InvalidInputError: the engine's values are not the model's own, or cannot be computed.
    """
    name = type(model).__name__
    advice = '; set rollout.engine to "vllm", or use another model'
    try:
        sampled, logprobs = _two_turns(model, tokenizer, probe)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInputError(
            f"{name} ({unusual_options(model)}): the transformers engine fails ({reason}){advice}"
        ) from error
    problem = gap_problem(model, sampled, logprobs)
    if problem is not None:
        raise InvalidInputError(f"{name}: the transformers engine gives {problem}{advice}")


def engine_gap(model: Any, tokenizer: PreTrainedTokenizerFast, probe: Probe) -> float:
    """The largest difference (nats) of the engine's log-probabilities from the model's own."""
    sampled, logprobs = _two_turns(model, tokenizer, probe)
    return largest_gap(sampled.logprobs, logprobs)


def _two_turns(
    model: Any, tokenizer: PreTrainedTokenizerFast, probe: Probe
) -> tuple[Probe, list[list[float]]]:
    """The tokens that the engine samples in two turns with the model's own log-probabilities, and
    the engine's.
    """
    rows, ours = engine_logprobs(model, tokenizer, probe)
    own = [
        tuple(own_row[index] for index in sorted(row))
        for own_row, row in zip(_own_logprobs(model, rows), ours, strict=True)
    ]
    logprobs = [[row[index] for index in sorted(row)] for row in ours]
    return Probe(tuple(map(tuple, rows)), tuple(own)), logprobs


def engine_logprobs(
    model: Any, tokenizer: PreTrainedTokenizerFast, probe: Probe
) -> tuple[list[list[int]], list[dict[int, float]]]:
    """Two turns of each sequence of the probe, together in one batch. Returns their tokens, and for
    each sequence the log-probability that the engine reports at the index of each sampled token.
    """
    ids = [list(sequence) for sequence in probe.sequences]
    new_tokens = min(_MOST_NEW_TOKENS, max(1, len(ids[0]) // 4))
    longest = len(ids[0]) + _TURNS * new_tokens + len(ids[-1])
    engine = TransformersEngine(model, tokenizer, batch_size=len(ids), max_context=longest)
    values: list[dict[int, float]] = [{} for _ in ids]
    sampling = Sampling(max_new_tokens=new_tokens)
    for turn in range(_TURNS):
        for session, row in enumerate(ids):
            engine.submit(GenerationRequest(session, tuple(row), sampling, seed=turn))
        waiting = len(ids)
        while waiting:
            for done in engine.step():
                row = ids[done.session]
                values[done.session] |= dict(enumerate(done.logprobs, start=len(row)))
                row += done.token_ids
                if turn + 1 < _TURNS:
                    row += probe.sequences[-1]  # what a search would feed back
                waiting -= 1
    engine.close()
    return ids, values


@torch.no_grad()
def _own_logprobs(model: Any, rows: list[list[int]]) -> list[list[float]]:
    """The model's own log-probability at each index of each row, 0 at the first."""
    values = []
    for row in rows:
        ids = torch.tensor([row], device=model.device)
        scores = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        values.append([0.0, *scores.gather(-1, ids[0, 1:, None])[:, 0].tolist()])
    return values
