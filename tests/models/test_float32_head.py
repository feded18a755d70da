"""Logits in float32 from a bfloat16 model, in learner and engine."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    Qwen2Config,
)

from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.probe import own_probe
from tspo_cli.models.dtype import use_float32_head
from tspo_cli.models.own_logits import logit_function
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.rollout.engines.hf.engine_check import engine_logprobs

SHAPE: dict[str, Any] = {
    "vocab_size": 80,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.3,
}
FAMILIES = {
    "qwen2": (Qwen2Config, {}),
    "untied": (Qwen2Config, {"tie_word_embeddings": False}),
    "scaled": (GraniteConfig, {"logits_scaling": 4.0}),
    "multiplied": (CohereConfig, {"logit_scale": 0.5}),
    "capped": (Gemma2Config, {"final_logit_softcapping": 20.0}),
}


def make(family: str) -> Any:
    torch.manual_seed(0)
    kind, more = FAMILIES[family]
    return AutoModelForCausalLM.from_config(kind(**SHAPE, **more), dtype=torch.bfloat16).eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_those_of_the_bfloat16_weights_in_float32(family: str) -> None:
    """Scales and caps, which come after the head, included."""
    model = make(family)
    hidden = torch.randn(5, 64, dtype=torch.bfloat16)
    rounded = logit_function(model)(hidden).float()
    use_float32_head(model)
    logits = logit_function(model)(hidden)
    wide = copy.deepcopy(model).float()
    assert logits.dtype == torch.float32
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16
    torch.testing.assert_close(logits, logit_function(wide)(hidden.float()), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits, rounded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, rounded, rtol=0.05, atol=0.2)


def test_a_copy_computes_with_its_own_weights() -> None:
    """The reference policy must not follow the one that is trained."""
    model = make("untied")
    use_float32_head(model)
    frozen, ids = copy.deepcopy(model), torch.tensor([[5, 6, 7]])
    before = frozen(ids).logits
    logprobs = model(ids).logits.log_softmax(-1)
    functional.nll_loss(logprobs[0], torch.tensor([6, 7, 8])).backward()
    assert model.lm_head.weight.grad.abs().max() > 0
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    assert torch.equal(frozen(ids).logits, before)
    assert not torch.equal(model(ids).logits, before)


@torch.no_grad()
def test_engine_and_model_differ_less() -> None:
    tokenizer = tiny_tokenizer(("river", "town"), ("ba", "ko"))
    gaps = []
    for wide_head in (False, True):
        torch.manual_seed(1)
        model: Any = AutoModelForCausalLM.from_config(
            Qwen2Config(**{**SHAPE, "vocab_size": len(tokenizer), "initializer_range": 0.4}),
            dtype=torch.bfloat16,
        ).eval()
        if wide_head:
            use_float32_head(model)
        rows, values = engine_logprobs(model, tokenizer, own_probe(model, 64))
        found = []
        for row, sampled in zip(rows, values, strict=True):
            own = model(torch.tensor([row])).logits[0].float().log_softmax(-1)
            found += [abs(float(own[at - 1, row[at]]) - value) for at, value in sampled.items()]
        gaps.append(sum(found) / len(found))
    assert 0 < gaps[1] < gaps[0]


def test_another_kind_of_head_is_refused() -> None:
    model = make("qwen2")
    use_float32_head(model)
    with pytest.raises(InvalidInputError, match=r"model\.float32_head.*Float32Head"):
        use_float32_head(model)
    model.set_output_embeddings(torch.nn.Identity())
    with pytest.raises(InvalidInputError, match="Identity"):
        use_float32_head(model)
