"""Packed rows give what padded rectangles give: nothing sees its neighbours, and little is computed
in vain.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.training.core.learner_worker import VOCABULARY, make_config, make_learner, make_sequences
from tspo_cli.models.packed_attention import enable_packing
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.micro_batches import MicroBatch, micro_batches
from tspo_cli.training.core.sequences import TrainSequence

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module", autouse=True)
def process_group() -> None:
    init_distributed()


def loss_and_gradients(
    model: torch.nn.Module, batches: list[MicroBatch]
) -> tuple[float, list[torch.Tensor]]:
    """The weighted negative log-likelihood of all batches together, and its gradients."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        logprobs = model.get_output_embeddings()(batch.hidden(model.base_model)).log_softmax(-1)
        found = batch.spread(logprobs.gather(-1, batch.targets[:, None])[:, 0])
        loss = -(found * batch.coefficients).sum()
        loss.backward()
        total += loss.item()
    return total, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 12), budget=st.integers(10, 400))
def test_same_loss_and_gradients_as_padded(kind: str, seed: int, count: int, budget: int) -> None:
    torch.manual_seed(0)
    model = (
        Qwen2ForCausalLM(Qwen2Config(**SHAPE))
        if kind == "qwen2"
        else LlamaForCausalLM(LlamaConfig(**SHAPE))
    )
    sequences = make_sequences(seed, count)
    shares = [[weight / 200 for weight in sequence.weights] for sequence in sequences]
    padded = loss_and_gradients(model, micro_batches(sequences, shares, budget, packed=False))
    enable_packing(model)
    packed = loss_and_gradients(model, micro_batches(sequences, shares, budget))
    assert packed[0] == pytest.approx(padded[0], abs=1e-6, rel=1e-6)
    for ours, theirs in zip(packed[1], padded[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), groups=st.integers(1, 4), budget=st.integers(30, 500))
def test_shared_prefixes_change_nothing_but_the_work(
    kind: str, seed: int, groups: int, budget: int
) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel
    if kind == "mistral":  # layers with a sliding window
        model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=11))
    else:
        model = (
            Qwen2ForCausalLM(Qwen2Config(**SHAPE))
            if kind == "qwen2"
            else LlamaForCausalLM(LlamaConfig(**SHAPE))
        )
    sequences = branching_sequences(seed, groups)
    shares = [[weight / 200 for weight in sequence.weights] for sequence in sequences]
    enable_packing(model)
    alone_batches = micro_batches(sequences, shares, budget)
    batches = micro_batches(sequences, shares, budget, shared=True)
    alone, shared = loss_and_gradients(model, alone_batches), loss_and_gradients(model, batches)
    assert shared[0] == pytest.approx(alone[0], abs=1e-6, rel=1e-6)
    for ours, theirs in zip(shared[1], alone[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert all(
        batch.token_ids.numel() <= budget or len(set(batch.members)) == 1 for batch in batches
    )


def branching_sequences(seed: int, groups: int) -> list[TrainSequence]:
    """Groups that begin with the same instruction; the sequences of a group share a prompt, and
    some of them their first turn or everything.
    """
    random = np.random.default_rng(seed)

    def tokens(most: int) -> list[int]:
        return random.integers(0, VOCABULARY, random.integers(1, most)).tolist()

    instruction, sequences = tokens(20), []
    for _ in range(groups):
        prompt, turn, end = instruction + tokens(8), tokens(12), tokens(9)
        for row in (turn + end, turn + tokens(9), turn + end, tokens(6), turn):
            weights = [0.0] * len(prompt) + [1.0] * len(row)
            weights[len(prompt)] = float(random.integers(0, 3))
            sequences.append(TrainSequence(prompt + row, weights))
    order = random.permutation(len(sequences)).tolist()
    return [sequences[index] for index in order]


def test_common_tokens_are_packed_once() -> None:
    prompt, turn = [1, 2, 3, 4], [5, 6]
    rows = [[*prompt, *turn, 7], [*prompt, *turn, 8], [*prompt, 9], [*prompt, *turn, 7]]
    sequences = [TrainSequence(row, [0.0] * 4 + [1.0] * (len(row) - 4)) for row in rows]
    shares = [row.weights for row in sequences]
    [batch] = micro_batches(sequences, shares, 100, shared=True)
    assert sorted(batch.token_ids[0].tolist()) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert sorted(batch.spread(batch.targets).tolist()) == [5, 5, 5, 6, 6, 6, 7, 7, 8, 9]
    assert sorted(batch.targets.tolist()) == [5, 6, 7, 8, 9]  # each goes through the head once
    trained = [len(rows[member]) - 4 for member in batch.members]
    assert trained == [batch.sequences.tolist().count(number) for number in range(4)]
    # A budget of 8 has room for three of them, one of which costs nothing.
    halves = micro_batches(sequences, shares, 8, shared=True)
    assert [half.token_ids.numel() for half in halves] == [8, 5]


@pytest.mark.parametrize("ratio", ["token", "turn"])
def test_a_tree_of_eight_leaves_has_the_gradients_of_eight_sequences(ratio: str) -> None:
    """They share half of their tokens, in two steps: all of them the first turn, and four each the
    second. Old log-probabilities are far off, so that the loss clips for some and not for others.
    """
    sequences = tree_of_eight()
    found = []
    for shares in ("always", "never"):
        options = ("train.tokens_per_micro_batch=500", f"loss.ratio={ratio}")
        learner = make_learner(make_config(f"train.share_prefixes={shares}", *options))
        gradients: list[torch.Tensor] = []

        def keep(_: torch.Tensor, model: torch.nn.Module = learner.module) -> None:
            gradients.extend(parameter.grad.clone() for parameter in model.parameters())  # noqa: B023

        metrics = learner.update_policy(sequences, keep)
        found.append((gradients, metrics, learner.core.computed_tokens))
    (tree, metrics, tokens), (whole, others, all_tokens) = found
    assert 0 < metrics["clip_fraction"] < 1
    assert metrics == pytest.approx(others, abs=1e-6)
    assert tokens == 8 * 20 + 2 * 8 + 12 == 0.5875 * all_tokens
    assert max(float(gradient.abs().max()) for gradient in whole) > 1e-3
    for ours, theirs in zip(tree, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def tree_of_eight() -> list[TrainSequence]:
    """Sequences of 40 tokens: a prompt of 6, a trained turn of 6, one of 8, and 20 of their own."""
    random = np.random.default_rng(0)

    def draw(count: int) -> list[int]:
        return random.integers(0, VOCABULARY, count).tolist()

    first, seconds = draw(12), [draw(8), draw(8)]
    sequences = []
    for leaf in range(8):
        ids = first + seconds[leaf // 4] + draw(20)
        advantage = float(random.normal())
        sequences.append(
            TrainSequence(
                ids,
                [0.0] * 6 + [1.0] * 34,
                advantages=[0.0] * 6 + [advantage] * 34,
                old_logprobs=[0.0] * 6 + (-4.0 + random.normal(size=34)).tolist(),
                turns=[-1] * 6 + [0] * 6 + [1] * 8 + [2] * 20,
            )
        )
    return sequences


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(60, 300))
def test_packed_rows_hold_no_padding(lengths: list[int], budget: int) -> None:
    sequences = [sequence for length in lengths for sequence in make_sequences(length, 1)]
    batches = micro_batches(sequences, [sequence.weights for sequence in sequences], budget)
    used = sum(
        max(place for place, weight in enumerate(sequence.weights) if weight) + 1
        for sequence in sequences
        if any(sequence.weights)
    )
    assert sum(batch.token_ids.numel() for batch in batches) == used
    assert all(batch.token_ids.numel() <= budget for batch in batches)
    # No two batches could have been one: first-fit leaves less than half of the budget free in all
    # but one.
    assert sum(batch.token_ids.numel() <= budget / 2 for batch in batches) <= 1


def test_an_update_is_the_same_packed_and_padded() -> None:
    rows = []
    for packed in ("true", "false"):
        learner = make_learner(
            make_config(f"train.packing={packed}", "train.tokens_per_micro_batch=100")
        )
        rows.append([learner.update_policy(make_sequences(seed)) for seed in range(3)])
    for packed_row, padded_row in zip(*rows, strict=True):
        assert packed_row == pytest.approx(padded_row, abs=2e-6, rel=2e-5)


def test_gradient_checkpointing_changes_nothing() -> None:
    rows = []
    for wanted in ("true", "false"):
        learner = make_learner(make_config(f"train.gradient_checkpointing={wanted}"))
        rows.append([learner.update_policy(make_sequences(seed)) for seed in range(2)])
    assert rows[0] == rows[1]


def test_a_packed_model_still_reads_padded_prompts() -> None:
    """Left padding and a cache go through the mask that transformers makes."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, initializer_range=0.3)).eval()
    ids = torch.randint(0, VOCABULARY, (2, 9))
    mask = torch.tensor([[0] * 4 + [1] * 5, [1] * 9])
    options = {
        "attention_mask": mask,
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    before = model.generate(ids, **options)
    enable_packing(model)
    assert torch.equal(model.generate(ids, **options), before)


@pytest.mark.gpu
def test_the_variable_length_kernel_agrees_with_attention_per_segment() -> None:
    from tspo_cli.models.packed_attention import Segments, _flash, _per_segment, _Sdpa, _varlen

    if _varlen() is None:
        pytest.skip("this torch has no varlen_attn with windows")
    torch.manual_seed(0)
    query = torch.randn(1, 8, 300, 64, device="cuda", dtype=torch.bfloat16)
    key, value = (torch.randn(1, 2, 300, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    segments = Segments.of((120, 1, 179), query.device)
    for window in (None, 40):
        tensors = (query.float(), key.float(), value.float())
        expected = _per_segment(*tensors, segments, window, _Sdpa(None, 0.0))
        torch.testing.assert_close(
            _flash(query, key, value, segments, None, window).float(),
            expected,
            atol=2e-2,
            rtol=2e-2,
        )
