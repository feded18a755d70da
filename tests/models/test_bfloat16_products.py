"""Matrix products of bfloat16 models on CPUs that have no instructions for them."""

from __future__ import annotations

import copy
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.training.core.learner_worker import make_config, make_sequences
from tspo_cli.models import dtype
from tspo_cli.models.checks import model_size
from tspo_cli.models.dtype import (
    Float32Head,
    Float32Product,
    multiply_in_float32,
    use_float32_head,
)
from tspo_cli.models.load_model import load_model
from tspo_cli.models.lora import add_lora
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.policy_learner import PolicyLearner

CPU_FLAGS = Path("/proc/cpuinfo")


def make_model() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=80,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
    )
    return Qwen2ForCausalLM(config).to(torch.bfloat16).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 5)])
def test_products_and_gradients_are_those_of_float32_rounded_once(
    bias: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(16, 24, bias=bias, dtype=torch.bfloat16)
    exact = copy.deepcopy(layer).float()
    multiply_in_float32(nn.ModuleList([layer]))
    x = torch.randn(*shape, 16, dtype=torch.bfloat16, requires_grad=True)
    x_exact = x.detach().float().requires_grad_()
    weights = torch.randn(*shape, 24, dtype=torch.bfloat16)
    y, y_exact = layer(x), exact(x_exact)
    (y * weights).sum().backward()
    (y_exact * weights.float()).sum().backward()
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, y_exact.bfloat16())
    assert torch.equal(x.grad, x_exact.grad.bfloat16())  # type: ignore[union-attr]
    for mine, other in zip(layer.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad.bfloat16())


def test_a_model_computes_as_before_up_to_rounding() -> None:
    model = make_model()
    mine = copy.deepcopy(model)
    multiply_in_float32(mine)
    assert sum(isinstance(part, Float32Product) for part in mine.modules()) == 15
    assert mine.state_dict().keys() == model.state_dict().keys()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected, logits = (m(input_ids=ids).logits.log_softmax(-1) for m in (model, mine))
    assert (expected - logits).abs().mean() < 0.05


def test_frozen_weights_get_no_gradient() -> None:
    layer = nn.Linear(4, 3, dtype=torch.bfloat16).requires_grad_(False)
    multiply_in_float32(nn.ModuleList([layer]))
    x = torch.randn(2, 4, dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_other_layers_stay_as_they_are() -> None:
    model = make_model()
    use_float32_head(model)
    model.model.layers[0].mlp.up_proj.float()
    multiply_in_float32(model)
    assert type(model.lm_head) is Float32Head
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear


@pytest.fixture
def slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_size, "LARGE", 0)
    monkeypatch.setattr(dtype, "has_bfloat16", lambda: False)


def count(model: Any) -> int:
    return sum(isinstance(part, Float32Product) for part in model.modules())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path)
    return tmp_path


def test_large_models_are_loaded_with_them(saved: Path, slow_bfloat16: None) -> None:
    model = load_model(saved, torch.bfloat16)
    assert count(model) == 15
    assert count(copy.deepcopy(model)) == 15
    use_float32_head(model)
    assert type(model.lm_head) is Float32Head
    assert count(load_model(saved, torch.float32)) == 0


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPU_FLAGS.is_file(), reason="reads flags of an x86 CPU"
)
def test_the_processor_says_whether_it_multiplies_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = set(CPU_FLAGS.read_text().partition("\nflags")[2].partition("\n")[0].split())
    assert dtype.has_bfloat16() == bool(flags & {"avx512_bf16", "amx_bf16"})
    # AVX-512 without bfloat16 (Skylake): oneDNN takes it, and converts.
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not dtype.has_bfloat16()


@pytest.mark.parametrize(("large", "has_instructions"), [(True, True), (False, False)])
def test_other_models_are_not(
    large: bool, has_instructions: bool, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_size, "LARGE", 0 if large else 10**9)
    monkeypatch.setattr(dtype, "has_bfloat16", lambda: has_instructions)
    assert count(load_model(saved, torch.bfloat16)) == 0


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_updates_are_the_same_up_to_rounding(
    zero_stage: int, rank: int, saved: Path, slow_bfloat16: None
) -> None:
    init_distributed()
    config = make_config(
        f"deepspeed.zero_stage={zero_stage}",
        f"lora.rank={rank}",
        "train.gradient_checkpointing=true",
    )
    norms = []
    for model in (make_model(), load_model(saved, torch.bfloat16)):
        if rank:
            add_lora(model, config.lora, seed=0)
        learner = PolicyLearner(model, config, total_updates=2)
        metrics = [learner.update_policy(make_sequences(0)) for _ in range(2)]
        assert metrics[1]["kl"] > metrics[0]["kl"]
        norms.append(metrics[0]["grad_norm"])
    assert count(learner.module) >= 14
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
