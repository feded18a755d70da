"""Latencies and batches of searches, and the KV cache, over all processes of a step."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tspo_cli.retrieval.types import RetrieverInfo, SearchResult
from tspo_cli.training.telemetry.rollout_load import (
    MeasuredRetriever,
    RolloutLoad,
    load_measures,
)
from tspo_cli.training.telemetry.step_measures import token_operations


@dataclass
class Slow:
    """Answers when the test lets it; a query "fails" raises."""

    blocking: bool = True

    def describe(self) -> RetrieverInfo:
        return RetrieverInfo(kind="bm25")

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        if "fails" in queries:
            raise OSError("no answer")
        return [SearchResult() for _ in queries]


def test_requests_are_noted_from_every_thread_and_taken_once() -> None:
    measured = MeasuredRetriever(Slow())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda size: measured.search(["a"] * size, 3), [1, 2, 5, 2]))
    with pytest.raises(OSError, match="no answer"):
        measured.search(["fails"], 3)
    taken = measured.take()
    assert sorted(size for _, size in taken) == [1, 2, 2, 5]
    assert all(0 <= seconds < 5 for seconds, _ in taken)
    assert measured.take() == []
    assert (measured.blocking, measured.describe().kind) == (True, "bm25")


def test_percentiles_are_those_of_all_requests_and_not_of_each_process() -> None:
    fast = RolloutLoad([(0.1, 2)] * 98)
    slow = RolloutLoad([(0.1, 2), (7.0, 202)])
    found = load_measures([fast, slow, RolloutLoad()])
    assert found["retrieval_requests"] == 100
    assert found["retrieval_p50"] == pytest.approx(0.1)
    assert 0.1 < found["retrieval_p99"] < 7.0, "one slow request of a hundred"
    assert (found["retrieval_batch"], found["retrieval_batch_largest"]) == pytest.approx((4, 202))
    assert load_measures([fast, RolloutLoad([(7.0, 1)] * 3)])["retrieval_p99"] == 7.0


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        ([{}, {}], {}),
        ([{"kv_cache_peak": 0.4, "preemptions": 2.0}], {"kv_cache_peak": 0.4, "preemptions": 2}),
        (
            [
                {"kv_cache_peak": 0.4, "preemptions": 2.0},
                {"kv_cache_peak": 0.9, "preemptions": 1.0},
            ],
            {"kv_cache_peak": 0.9, "preemptions": 3},
        ),
        ([{}, {"kv_cache_peak": 0.0, "preemptions": 0.0}], {"kv_cache_peak": 0, "preemptions": 0}),
    ],
)
def test_caches_of_all_processes(
    caches: list[dict[str, float]], expected: dict[str, float]
) -> None:
    assert load_measures([RolloutLoad((), cache) for cache in caches]) == expected


def test_operations_are_those_of_what_is_trained() -> None:
    """Of frozen weights adapters need the gradients of activations alone; below what is trained
    there are none. Counted as 6, they would show half as many again as the GPU makes.
    """
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=100,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    size = sum(value.numel() for value in model.parameters())
    assert token_operations(model, adapters=False) == 6 * size
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    head = 32 * 100
    assert token_operations(model, adapters=True) == 4 * size + 2 * head
    assert token_operations(model, adapters=False) == 2 * size + 4 * head
