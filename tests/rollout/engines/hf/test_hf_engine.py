"""The engine's log-probs and ids are those of a plain forward pass, whatever shares its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.rollout.engines.hf.engine_runs import (
    CONTEXT,
    engine_for,
    finish,
    finish_one,
    logprobs_of,
    tokens,
)
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine


def check_four_turns(model: PreTrainedModel, engine: TransformersEngine, sessions: int) -> None:
    """Four turns with feedback of different lengths for several sessions at once."""
    sampling = Sampling(temperature=0.8, max_new_tokens=9)
    histories = {session: tokens(session, 5 + 13 * session) for session in range(sessions)}
    for turn in range(4):
        done = finish(
            engine,
            [
                GenerationRequest(session, tuple(ids), sampling, 10 * turn + session)
                for session, ids in histories.items()
            ],
        )
        for session, completion in done.items():
            histories[session] += completion.token_ids
            assert len(completion.token_ids) == 9 or completion.finish_reason == "eos"
            expected = logprobs_of(model, histories[session], len(completion.token_ids), 0.8)
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)
            histories[session] += tokens(100 * turn + session, 3 + 7 * ((session + turn) % 3))


def test_logprobs_match_a_full_forward_over_four_turns(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    check_four_turns(
        model, TransformersEngine(model, tokenizer, batch_size=5, max_context=CONTEXT), sessions=5
    )


def test_logprobs_match_when_sessions_are_evicted(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    check_four_turns(
        model, TransformersEngine(model, tokenizer, batch_size=2, max_context=CONTEXT), sessions=7
    )


LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("build", "config", "special"),
    [
        (LlamaForCausalLM, LlamaConfig, {}),
        (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 2, "attention_bias": True}),
        (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LLAMA_3_ROPE, "head_dim": 24}),
        (LlamaForCausalLM, LlamaConfig, {"mlp_bias": True, "attn_implementation": "eager"}),
        (Qwen2ForCausalLM, Qwen2Config, {"num_key_value_heads": 1, "tie_word_embeddings": True}),
        (Qwen3ForCausalLM, Qwen3Config, {"num_key_value_heads": 2, "head_dim": 16}),
    ],
    ids=[
        "llama",
        "llama-gqa-bias",
        "llama-3-rope",
        "llama-eager-mlp-bias",
        "qwen2-mqa-tied",
        "qwen3",
    ],
)
def test_logprobs_match_for_other_shapes(
    tokenizer: PreTrainedTokenizerFast, build: Any, config: Any, special: dict[str, Any]
) -> None:
    """Shapes that the engine computes with joined projections, and shapes that it leaves to the
    model.
    """
    torch.manual_seed(1)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    plain = {
        "vocab_size": len(tokenizer),
        "initializer_range": 0.2,
        "eos_token_id": None,
        "bos_token_id": None,
    }
    model = build(config(**{**shape, **plain, **special})).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    check_four_turns(
        model, TransformersEngine(model, tokenizer, batch_size=3, max_context=CONTEXT), sessions=4
    )


def test_long_prompts_enter_in_chunks(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=2, max_context=700)
    prompts = [tokens(1, 650), tokens(2, 300)]
    done = finish(
        engine,
        [
            GenerationRequest(i, tuple(ids), Sampling(max_new_tokens=6))
            for i, ids in enumerate(prompts)
        ],
    )
    for session, ids in enumerate(prompts):
        history = [*ids, *done[session].token_ids]
        assert done[session].logprobs == pytest.approx(logprobs_of(model, history, 6), abs=1e-4)


def test_greedy_ids_are_those_of_generate(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=4, max_context=CONTEXT)
    prompts = [tokens(seed, 4 + 5 * seed) for seed in range(4)]
    sampling = Sampling(temperature=0.0, max_new_tokens=20)
    done = finish(
        engine, [GenerationRequest(i, tuple(ids), sampling) for i, ids in enumerate(prompts)]
    )
    for session, ids in enumerate(prompts):
        expected = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=20, pad_token_id=0
        )
        assert list(done[session].token_ids) == expected[0, len(ids) :].tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_gives_the_same_ids_alone_and_in_company(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, max_new_tokens=25)
    request = GenerationRequest(99, tuple(tokens(5, 30)), sampling, seed=123)
    alone = finish(
        TransformersEngine(model, tokenizer, batch_size=1, max_context=CONTEXT), [request]
    )[99]
    others = [
        GenerationRequest(
            i, tuple(tokens(i, 3 + 4 * i)), Sampling(top_k=i % 3, max_new_tokens=5 + i), seed=i
        )
        for i in range(20)
    ]
    engine = TransformersEngine(model, tokenizer, batch_size=21, max_context=CONTEXT)
    company = finish(engine, [*others[:10], request, *others[10:]])[99]
    assert company.token_ids == alone.token_ids
    assert company.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_seeds_decide_the_sample(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=3, max_context=CONTEXT)
    sampling = Sampling(max_new_tokens=20)
    done = finish(
        engine, [GenerationRequest(i, (10, 11), sampling, seed) for i, seed in enumerate((1, 1, 2))]
    )
    assert done[0].token_ids == done[1].token_ids
    assert done[0].token_ids != done[2].token_ids


def test_more_sessions_than_slots_wait_for_their_turn(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    requests = [
        GenerationRequest(i, tuple(tokens(i, 10 + i)), Sampling(max_new_tokens=4 + i), seed=i)
        for i in range(7)
    ]
    narrow = finish(
        TransformersEngine(model, tokenizer, batch_size=2, max_context=CONTEXT), requests
    )
    wide = finish(TransformersEngine(model, tokenizer, batch_size=7, max_context=CONTEXT), requests)
    assert {s: c.token_ids for s, c in narrow.items()} == {s: c.token_ids for s, c in wide.items()}


def test_a_changed_history_is_not_served_from_the_cache(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=2, max_context=CONTEXT)
    sampling = Sampling(max_new_tokens=5)
    finish_one(engine, tokens(1, 40), sampling)
    for ids in (tokens(1, 40)[:25] + tokens(2, 10), tokens(1, 40)[:12], tokens(3, 30)):
        completion = finish_one(engine, ids, sampling)
        assert completion.logprobs == pytest.approx(
            logprobs_of(model, [*ids, *completion.token_ids], 5), abs=1e-4
        )


def test_release_frees_waiting_and_running_sessions(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=1, max_context=CONTEXT)
    for session in range(3):
        engine.submit(GenerationRequest(session, (10, 11, 12), Sampling(max_new_tokens=30)))
    engine.step()
    engine.release(0)
    engine.release(1)
    engine.release(77)
    done = []
    for _ in range(40):
        done += engine.step()
    assert [completion.session for completion in done] == [2]
    engine.submit(GenerationRequest(0, (10, 11, 12), Sampling(max_new_tokens=1)))


def test_one_request_per_session(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=1, max_context=CONTEXT)
    engine.submit(GenerationRequest(0, (10,), Sampling(max_new_tokens=3)))
    with pytest.raises(ValueError, match="in flight"):
        engine.submit(GenerationRequest(0, (10,), Sampling(max_new_tokens=3)))
    engine.step()
    with pytest.raises(ValueError, match="in flight"):
        engine.submit(GenerationRequest(0, (10,), Sampling(max_new_tokens=3)))


def test_new_weights_drop_what_was_cached(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    random_policy: Callable[[int], Qwen2ForCausalLM],
) -> None:
    engine = engine_for(model, tokenizer)
    ids = tokens(1, 20)
    assert finish_one(engine, ids, Sampling(max_new_tokens=4)).weight_version == 0
    other = random_policy(9)
    engine.load_weights(dict(other.named_parameters()), version=3)
    done = finish_one(engine, ids, Sampling(max_new_tokens=4), seed=5)
    assert done.weight_version == engine.weight_version == 3
    assert done.logprobs == pytest.approx(logprobs_of(other, [*ids, *done.token_ids], 4), abs=1e-4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    engine.load_weights(None, version=4)
    done = finish_one(engine, ids, Sampling(max_new_tokens=4), seed=5)
    assert done.weight_version == 4
    assert done.logprobs == pytest.approx(logprobs_of(model, [*ids, *done.token_ids], 4), abs=1e-4)


def test_new_weights_reach_running_requests(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    random_policy: Callable[[int], Qwen2ForCausalLM],
) -> None:
    engine = engine_for(model, tokenizer)
    ids = tokens(1, 20)
    engine.submit(GenerationRequest(0, tuple(ids), Sampling(max_new_tokens=10), seed=1))
    engine.step()
    engine.step()
    other = random_policy(9)
    engine.load_weights(other.state_dict(), version=1)
    done: list[Completion] = []
    while not done:
        done = engine.step()
    assert len(done[0].token_ids) == 10
    expected = logprobs_of(other, [*ids, *done[0].token_ids], 10)
    assert done[0].logprobs[-6:] == pytest.approx(expected[-6:], abs=1e-4)
    assert done[0].weight_version == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e38])
def test_weights_that_diverged_end_the_work_with_a_line(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    weight: float,
    temperature: float,
) -> None:
    engine = engine_for(model, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(weight)
    engine.load_weights(None, version=1)
    with pytest.raises(TspoError, match="diverged or are damaged"):
        finish_one(engine, tokens(1, 20), Sampling(max_new_tokens=4, temperature=temperature))


def test_wrong_weights_are_refused(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = engine_for(model, tokenizer)
    weights = dict(model.named_parameters())
    with pytest.raises(InvalidInputError, match="no parameter 'extra'"):
        engine.load_weights({**weights, "extra": torch.zeros(1)}, 1)
    with pytest.raises(InvalidInputError, match=r"model\.norm\.weight has shape"):
        engine.load_weights({**weights, "model.norm.weight": torch.zeros(1)}, 1)
    weights.pop("model.norm.weight")
    with pytest.raises(InvalidInputError, match="1 parameter is missing"):
        engine.load_weights(weights, 1)
    assert engine.weight_version == 0


def test_training_mode_is_left_as_it_was(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model.gradient_checkpointing_enable()
    model.train()
    check_ids = tokens(1, 20)
    done = finish_one(engine_for(model, tokenizer), check_ids, Sampling(max_new_tokens=5))
    assert model.training
    model.eval()
    assert done.logprobs == pytest.approx(
        logprobs_of(model, [*check_ids, *done.token_ids], 5), abs=1e-4
    )


def test_layers_without_keys_and_values_are_refused(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(InvalidInputError, match="layers of kind linear_attention"):
        TransformersEngine(model, tokenizer, batch_size=1, max_context=128)
