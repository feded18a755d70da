"""What saves memory changes no result: references without a copy, sharded ones, gradients added up
in float32, threads of an offloaded optimiser.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from deepspeed.utils import safe_get_full_grad

from tests.training.core.learner_worker import VOCABULARY, make_config, make_sequences
from tspo_cli import freed_memory
from tspo_cli.config.rules import rule_problems
from tspo_cli.config.schema import Config
from tspo_cli.cpu_threads import optimizer_threads, share_of_cores
from tspo_cli.freed_memory import use_expandable_segments
from tspo_cli.models.lora import adapters_off, add_lora
from tspo_cli.models.tiny import tiny_model
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.policy_learner import PolicyLearner


def learner_of(*settings: str, dtype: torch.dtype = torch.float32) -> PolicyLearner:
    init_distributed()
    config = make_config("loss.kl=0.01", *settings)
    model = tiny_model(VOCABULARY, config.model, 0).to(dtype)
    if config.lora.rank:
        add_lora(model, config.lora, 0)
    return PolicyLearner(model, config, total_updates=10)


def numbers(learner: PolicyLearner) -> int:
    """Of all parameters that the learner and its reference hold."""
    return sum(parameter.numel() for parameter in learner.module.parameters())


def test_without_adapters_the_policy_is_its_own_reference() -> None:
    sequences = make_sequences(0)
    start = learner_of().reference_logprobs(sequences)
    learner = learner_of("lora.rank=4", "optimizer.lr=0.1")
    assert learner.reference_logprobs(sequences) == start
    learner.update_policy(sequences)
    kl = learner.update_policy(sequences)["kl"]
    assert kl > 0  # the adapters are on again, in the forward pass and in the gradient
    assert learner.reference_logprobs(sequences) == start != learner.logprobs(sequences)
    trained = [value for value in learner.module.parameters() if value.requires_grad]
    assert trained
    with pytest.raises(ZeroDivisionError), adapters_off(learner.module):
        raise ZeroDivisionError  # an error leaves them on
    assert learner.logprobs(sequences) != start


@pytest.mark.parametrize(
    "settings", [("deepspeed.zero_stage=3",), ("deepspeed.offload_reference=true",)]
)
def test_a_sharded_reference_gives_the_log_probs_of_a_copy(settings: tuple[str, ...]) -> None:
    sequences = make_sequences(1)
    start = learner_of().reference_logprobs(sequences)
    learner = learner_of(*settings, "optimizer.lr=0.1")
    for _ in range(2):
        learner.update_policy(sequences)
        found = learner.reference_logprobs(sequences)
        for row, expected in zip(found, start, strict=True):
            assert row == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "wanted", "is_exact"),
    [(2, "auto", True), (3, "float32", True), (2, "bfloat16", False)],
)
def test_gradients_are_added_up_in_float32(stage: int, wanted: str, is_exact: bool) -> None:
    settings = (f"deepspeed.zero_stage={stage}", f"deepspeed.gradient_dtype={wanted}")
    more = ("train.tokens_per_micro_batch=1", "optimizer.grad_clip=0", "train.packing=true")
    learner = learner_of(*settings, *more, dtype=torch.bfloat16)
    name, parameter = next(iter(learner.module.named_parameters()))
    seen: list[torch.Tensor] = []

    def keep(_: torch.Tensor) -> None:
        found = safe_get_full_grad(parameter)
        assert found is not None, name
        seen.append(found.float().clone())

    learner.update_policy(make_sequences(2)[:1] * 37, keep)
    # 37 equal terms: a sum in float32 is 37 times a bfloat16 number, one in bfloat16 is not.
    term = (seen[0] / 37).bfloat16().float() * 37
    close = torch.allclose(term, seen[0], rtol=1e-5, atol=0)
    assert close == is_exact


def test_float32_gradients_need_a_stage_that_has_them() -> None:
    config = make_config("deepspeed.gradient_dtype=float32", "deepspeed.zero_stage=1")
    assert any("gradient_dtype" in line for line in rule_problems(config))


def test_an_offloaded_optimiser_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (share_of_cores(1), share_of_cores(5), share_of_cores(50)) == (12, 2, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert share_of_cores(1) == 3
    before = torch.get_num_threads()

    def threads(**options: object) -> int:
        table = make_config().model_dump()
        table["deepspeed"] |= {"zero_stage": 1, **options}
        with optimizer_threads(Config.model_validate(table)):
            return torch.get_num_threads()

    assert threads(offload_optimizer=True) == 3
    assert threads() == before == torch.get_num_threads()


@pytest.mark.parametrize(
    ("gpu", "own", "expected"),
    [
        (True, {}, "expandable_segments:True"),
        (False, {}, None),
        (True, {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        (True, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, None),
    ],
)
def test_blocks_of_gpu_memory_grow_unless_a_user_decides(
    gpu: bool,
    own: dict[str, str],
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = tmp_path / "gpu"
    if gpu:
        device.touch()
    monkeypatch.setattr(freed_memory, "_GPU_DEVICE", device)
    monkeypatch.setattr(os, "environ", dict(own))
    use_expandable_segments()
    assert os.environ.get("PYTORCH_ALLOC_CONF") == expected
