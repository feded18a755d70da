"""The engine's ways with large models, on small ones: prompts of a group are encoded once, feedback
without padding, weights in another order. Results are those of a plain forward pass.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.rollout.engines.hf.engine_runs import CONTEXT, finish, logprobs_of, tokens
from tspo_cli.models.checks import model_size
from tspo_cli.models.dtype import has_bfloat16, use_float32_head
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.fused import bfloat16_attention, can_fuse
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.engines.hf.kv_cache import BLOCK_COLUMNS

SHAPE = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    # Not fused; one with a window shorter than the sessions.
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=40)),
}


@pytest.fixture(autouse=True)
def every_model_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_size, "LARGE", 0)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    kind, config = FAMILIES[request.param]
    return kind(config).eval()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each forward pass of an engine, padding included."""
    passes: list[int] = []
    forward = TransformersEngine._forward

    def counted(self: TransformersEngine, ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        passes.append(ids.numel())
        return forward(self, ids, *rest)

    monkeypatch.setattr(TransformersEngine, "_forward", counted)
    return passes


def groups(prompts: list[list[int]], size: int, sampling: Sampling) -> list[GenerationRequest]:
    """A request for each rollout of each prompt."""
    return [
        GenerationRequest(
            size * number + member, tuple(prompt), sampling, seed=100 * number + member
        )
        for number, prompt in enumerate(prompts)
        for member in range(size)
    ]


def test_prompts_of_groups_are_encoded_once_and_logprobs_are_the_models_own(
    model: Any, tokenizer: PreTrainedTokenizerFast, computed: list[int]
) -> None:
    instruction = tokens(0, 120)
    prompts = [instruction + tokens(seed, 30) for seed in (1, 2, 3)]
    engine = TransformersEngine(model, tokenizer, batch_size=12, max_context=CONTEXT)
    sampling = Sampling(max_new_tokens=5)
    requests = groups(prompts, 4, sampling)
    histories = {request.session: list(request.token_ids) for request in requests}
    for turn in range(3):
        done = finish(engine, requests)
        for session, completion in done.items():
            histories[session] += completion.token_ids
            expected = logprobs_of(model, histories[session], 5)
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        if turn == 0:
            # One row at a time: the first prompt, then what the others add to the instruction.
            prefills = [size for size in computed if size > 12]
            assert sum(prefills) <= 120 + 3 * 30 + 3 * 12
        feedback = {session: tokens(turn + 10, 70) for session in histories}
        requests = [
            GenerationRequest(
                session, tuple(histories[session] + feedback[session]), sampling, seed=turn
            )
            for session in histories
        ]
        for session in histories:
            histories[session] += feedback[session]


def test_greedy_tokens_are_those_of_generate(
    model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = [tokens(4, 90), tokens(4, 90)[:60] + tokens(5, 200), tokens(6, 17)]
    engine = TransformersEngine(model, tokenizer, batch_size=5, max_context=CONTEXT)
    sampling = Sampling(temperature=0, max_new_tokens=12)
    done = finish(engine, groups(prompts, 3, sampling))
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        expected = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=0)
        for member in range(3):
            assert list(done[3 * number + member].token_ids) == expected[0, len(prompt) :].tolist()


def test_new_weights_leave_nothing_of_the_old_ones(
    model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=4, max_context=CONTEXT)
    prompt, sampling = tokens(7, 80), Sampling(max_new_tokens=4)
    finish(engine, groups([prompt], 2, sampling))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    engine.load_weights(None, 1)
    done = finish(engine, groups([prompt + [9] * 20], 4, sampling))
    for completion in done.values():
        expected = logprobs_of(model, [*prompt, *[9] * 20, *completion.token_ids], 4)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_sleep_frees_the_cache_and_the_turns_go_on(
    model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt, sampling = tokens(11, 90), Sampling(max_new_tokens=6)
    ends = []
    for sleeps in (False, True):
        engine = TransformersEngine(model, tokenizer, batch_size=3, max_context=CONTEXT)
        first = finish(engine, groups([prompt], 3, sampling))
        if sleeps:
            engine.sleep()
            assert not any(layer.blocks for layer in engine.cache.slot_layers)
        history = [*prompt, *first[0].token_ids, *tokens(12, 30)]
        ends.append(finish(engine, [GenerationRequest(0, tuple(history), sampling)])[0])
    assert ends[0].token_ids == ends[1].token_ids
    assert ends[0].logprobs == pytest.approx(ends[1].logprobs, abs=1e-5)


@pytest.mark.parametrize("steps", [[30, 50], [130, 3, 70], [60, 200, 90, 40]])
def test_blocks_that_are_read_whole_give_the_same_as_their_parts(
    steps: list[int], model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    turns = []
    for whole in (True, False):
        engine = TransformersEngine(model, tokenizer, batch_size=3, max_context=CONTEXT)
        engine.cache.whole = whole
        histories = [tokens(14 + number, 20 + 7 * number) for number in range(3)]
        for size in steps:  # the last session waits, and its slot is read beside the others
            present = [n for n in range(3) if n < 2 or size > 60]
            histories = [[*ids, *tokens(len(ids), size)] for ids in histories]
            requests = [
                GenerationRequest(n, tuple(histories[n]), Sampling(max_new_tokens=12), n)
                for n in present
            ]
            done = finish(engine, requests)
            for number in present:
                histories[number] += done[number].token_ids
                turns.append(list(done[number].logprobs))
            assert not whole or engine.cache.capacity % BLOCK_COLUMNS == 0
    half = len(turns) // 2
    assert turns[:half] == [pytest.approx(logprobs, abs=1e-5) for logprobs in turns[half:]]


def test_what_a_whole_block_gives_does_not_depend_on_earlier_rollouts(
    model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    ends = []
    for before in (0, 300):
        engine = TransformersEngine(model, tokenizer, batch_size=2, max_context=CONTEXT)
        engine.cache.whole = True
        if before:
            finish(engine, [GenerationRequest(0, tuple(tokens(5, before)), Sampling(0.0))])
            engine.release(0)
        engine.sleep()
        request = GenerationRequest(1, tuple(tokens(6, 100)), Sampling(max_new_tokens=60), 3)
        ends.append((finish(engine, [request])[1], engine.cache.capacity))
    assert ends[0] == ends[1]


def test_released_sessions_lend_nothing(
    model: Any, tokenizer: PreTrainedTokenizerFast, computed: list[int]
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=2, max_context=CONTEXT)
    request = GenerationRequest(0, tuple(tokens(8, 100)), Sampling(max_new_tokens=2))
    for _ in range(2):
        finish(engine, [request])
        engine.release(0)
    assert computed == [100, 1, 100, 1]


@pytest.mark.parametrize("size", [257, 300, 500])
def test_feedback_is_one_pass_where_a_small_model_would_need_two(
    size: int, model: Any, tokenizer: PreTrainedTokenizerFast, computed: list[int]
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=1, max_context=CONTEXT)
    finish(engine, [GenerationRequest(0, tuple(tokens(9, size)), Sampling(max_new_tokens=2))])
    assert computed == [size, 1]


def test_what_this_cpu_multiplies_is_packed(model: Any) -> None:
    fused = type(model).__name__ != "MistralForCausalLM"
    assert can_fuse(model) == fused
    assert can_fuse(model.to(torch.bfloat16)) == (fused and has_bfloat16())


@pytest.mark.parametrize("float32_head", [False, True])
def test_turns_in_bfloat16_are_those_of_the_model(
    float32_head: bool, model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = model.to(torch.bfloat16)
    if float32_head:
        use_float32_head(model)
    engine = TransformersEngine(model, tokenizer, batch_size=3, max_context=CONTEXT)
    sampling = Sampling(max_new_tokens=12)
    done = finish(engine, groups([tokens(11, 70)], 3, sampling))
    longer = [tokens(11, 70) + list(done[n].token_ids) + tokens(20 + n, 40) for n in range(3)]
    later = finish(
        engine, [GenerationRequest(n, tuple(ids), sampling, n) for n, ids in enumerate(longer)]
    )
    for number, ids in enumerate(longer):
        expected = logprobs_of(model, [*ids, *later[number].token_ids], 12)
        assert later[number].logprobs == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "columns", "size"),
    [(6, 2, 1, 50, 64), (4, 4, 1, 300, 96), (9, 3, 40, 130, 64), (8, 1, 20, 33, 32)],
)
def test_attention_in_bfloat16_is_that_of_pytorch(
    heads: int, kv_heads: int, width: int, columns: int, size: int
) -> None:
    torch.manual_seed(columns)
    query = torch.randn(2, heads, width, size).bfloat16()
    keys, values = torch.randn(2, 2, kv_heads, columns, size).bfloat16()
    last = torch.arange(columns - width, columns)[:, None]
    hidden = torch.arange(columns) > last
    mask = torch.zeros(2, 1, width, columns).bfloat16()
    mask[:, :, hidden] = torch.finfo(torch.bfloat16).min
    mask[0, ..., :5] = torch.finfo(torch.bfloat16).min
    attended = bfloat16_attention(query, keys, values, mask)
    exact = scaled_dot_product_attention(
        query.double(), keys.double(), values.double(), mask.double(), enable_gqa=True
    )
    assert attended.dtype == torch.bfloat16
    assert (attended - exact).abs().max() < 0.03
    values[0, :, :5] = 1e4  # hidden
    again = bfloat16_attention(query, keys, values, mask)
    torch.testing.assert_close(again, attended, rtol=0, atol=0)
