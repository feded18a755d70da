from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from tspo_cli.config.schema import ModelConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.tiny import tiny_model


def test_same_seed_same_weights_and_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = tiny_model(50, ModelConfig(), 1).state_dict()
    assert torch.equal(torch.rand(3), expected)
    again, other = (
        tiny_model(50, ModelConfig(), 1).state_dict(),
        tiny_model(50, ModelConfig(), 2).state_dict(),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize("copy_prior", [True, False])
def test_round_trip_through_a_directory(tmp_path: Path, copy_prior: bool) -> None:
    model = tiny_model(60, ModelConfig(copy_prior=copy_prior, layers=3, hidden_size=64), 0).eval()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype="auto", local_files_only=True
    ).eval()
    assert isinstance(loaded, Qwen2ForCausalLM)
    assert loaded.config.eos_token_id == 1
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    ids = torch.randint(60, (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert loaded.dtype == torch.float32


def test_prior_looks_back_and_copies() -> None:
    model = tiny_model(200, ModelConfig(), 0).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(10, 200, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(ids, output_attentions=True)
    first_layer = output.attentions[0][0]
    for head, offset in enumerate((1, 2)):
        places = first_layer[head, 5:].argmax(-1)
        assert torch.equal(places, torch.arange(5, 40) - offset)
    seen = output.logits[0, -1, ids[0].unique()].mean()
    assert seen > output.logits[0, -1].mean()


@pytest.mark.parametrize("width", [32, 100])
def test_width_must_fit_the_heads(width: int) -> None:
    with pytest.raises(InvalidInputError, match="multiple of 32"):
        tiny_model(50, ModelConfig(hidden_size=width), 0)


def test_context_is_as_long_as_asked() -> None:
    assert tiny_model(50, ModelConfig(max_context=3000), 0).config.max_position_embeddings == 3000
