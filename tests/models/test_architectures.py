"""Every architecture is computed as it computes itself, or refused before the run."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tspo_cli.errors import InvalidInputError
from tspo_cli.models import packed_attention
from tspo_cli.models.checks.probe import own_probe, small_window
from tspo_cli.models.own_logits import logit_function
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.rollout.engines.hf.engine_check import check_engine
from tspo_cli.training.core import policy_learner
from tspo_cli.training.start.model_check import check_learner

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "architectures.py"
# Refused in packed rows; everything else of them is right.
OWN_ATTENTION = {"StableLM", "Falcon", "MPT, alibi", "Nemotron"}
REFUSED = {
    "GPT-Neo, local attention": "attention_types",
    "Falcon, alibi": "alibi True",
    "BLOOM, alibi": "alibi True",
    "Mamba": "linear_attention",
    "Falcon-H1": "hybrid",
    "LFM2": "conv",
    "Llama 4, chunks": "chunked_attention",
    "BERT, both directions": "expected a causal language model",
}


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architectures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["architectures"] = module
    spec.loader.exec_module(module)
    return module


architectures = _script()
ROWS = {row.name: row for row in architectures.ROWS}


def model_of(name: str, **options: Any) -> Any:
    row = ROWS[name]
    return architectures.random_model(dataclasses.replace(row, options={**row.options, **options}))


@pytest.mark.parametrize("name", ROWS)
def test_right_or_refused(name: str) -> None:
    row = architectures.measure(ROWS[name])
    assert not row.is_wrong, row
    if name in REFUSED:
        assert REFUSED[name] in str(row.engine)
        return
    assert isinstance(row.engine, float)
    assert isinstance(row.padded, float)
    if name in OWN_ATTENTION:
        assert "train.packing: " in row.packed
        assert "set train.packing to false" in row.packed
        assert "nats" not in row.packed, "the feature is named, not the gap alone"
    else:
        assert isinstance(row.packed, float)


@pytest.mark.parametrize("name", [name for name in ROWS if name.endswith("window")])
def test_a_window_longer_than_the_probe_is_checked_too(name: str) -> None:
    model = model_of(name, sliding_window=300)
    tokenizer = tiny_tokenizer(["river"], ["ba", "ko"])
    with small_window(model):
        own = own_probe(model, 512)
        check_engine(model, tokenizer, own)
        check_learner(model, own, packed=False)
        check_learner(model, own, packed=True)
    assert model.config.sliding_window == 300


def test_a_head_that_is_taken_for_plain_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("Granite, all multipliers")
    own = own_probe(model, 512)
    monkeypatch.setattr(
        policy_learner, "logit_function", lambda model: model.get_output_embeddings()
    )
    with pytest.raises(InvalidInputError, match="logits_scaling 8"):
        check_learner(model, own, packed=False)


def test_dropped_arguments_of_attention_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("Gemma 2, window and soft-caps")
    own = own_probe(model, 512)
    monkeypatch.setattr(packed_attention, "_WITHOUT_EFFECT", {"softcap"})
    with pytest.raises(InvalidInputError, match="attn_logit_softcapping 3"):
        check_learner(model, own, packed=True)


def test_weights_that_are_no_numbers_are_called_so() -> None:
    model = model_of("Qwen2")
    with torch.no_grad():
        next(model.parameters())[:] = torch.nan
    with pytest.raises(InvalidInputError, match="log-probabilities are NaN; the weights are dam"):
        own_probe(model, 512)


def test_a_plain_head_stays_the_head() -> None:
    for name in ("Qwen2", "Llama, biased and tied", "GPT-2"):
        model = model_of(name)
        assert logit_function(model) is model.get_output_embeddings()


def test_gradients_of_own_logits_are_those_of_the_model() -> None:
    model = model_of("Cohere, logit scale").double()
    ids = torch.arange(2, 14)[None]
    model(input_ids=ids).logits[0, 3].log_softmax(-1)[7].backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, 3:4]
    logit_function(model)(hidden)[0].log_softmax(-1)[7].backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
