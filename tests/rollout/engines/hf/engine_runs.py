"""Requests to the engine, and what a plain forward pass says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
)

from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine

CONTEXT = 512


def tokens(seed: int, count: int) -> list[int]:
    """Random ids of ordinary tokens."""
    return np.random.default_rng(seed).integers(10, 200, count).tolist()


def finish(
    engine: TransformersEngine, requests: Iterable[GenerationRequest]
) -> dict[int, Completion]:
    """Run requests to their end, by session."""
    missing = set()
    for request in requests:
        engine.submit(request)
        missing.add(request.session)
    done = {}
    while missing:
        for completion in engine.step():
            done[completion.session] = completion
            missing.remove(completion.session)
    return done


def finish_one(
    engine: TransformersEngine,
    ids: Sequence[int],
    sampling: Sampling,
    session: int = 0,
    seed: int = 0,
) -> Completion:
    return finish(engine, [GenerationRequest(session, tuple(ids), sampling, seed)])[session]


def logprobs_of(
    model: PreTrainedModel, ids: Sequence[int], count: int, temperature: float = 1.0
) -> list[float]:
    """Log-probabilities of the last `count` ids by one forward pass over everything."""
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits[0, -count - 1 : -1].float() / temperature
    return (
        torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[-count:])[:, None])[:, 0].tolist()
    )


def engine_for(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> TransformersEngine:
    return TransformersEngine(model, tokenizer, batch_size=2, max_context=CONTEXT)


def steer(model: Qwen2ForCausalLM, prompt: Sequence[int], first: Sequence[int], token: int) -> None:
    """Change the embedding of `token` so that it is the greedy choice after `prompt` + `first`."""
    with torch.no_grad():
        output = model.model(torch.tensor([[*prompt, *first]])).last_hidden_state[0, -1]
        model.get_input_embeddings().weight[token] = 10 * output
