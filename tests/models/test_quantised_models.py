"""A quantised model is read as such, or refused: its integers are not its weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tspo_cli.errors import InvalidInputError
from tspo_cli.models.load_model import load_model

SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "saved"
    LlamaForCausalLM(
        LlamaConfig(**SHAPE, num_attention_heads=2, num_key_value_heads=2)
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def configure(model: Path, **more: object) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


@pytest.mark.parametrize("chosen", [{"quant_method": "zzz"}, {"quant_method": None, "bits": 4}])
def test_an_unknown_quantisation_is_refused(model: Path, chosen: dict[str, object]) -> None:
    configure(model, quantization_config=chosen)
    with pytest.raises(InvalidInputError, match=re.escape(str(model))) as said:
        load_model(model)
    assert "quant" in str(said.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
@pytest.mark.parametrize("shard", ["model.safetensors", "model-00001-of-00001.safetensors"])
def test_weights_in_another_form_are_refused(model: Path, dtype: torch.dtype, shard: str) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors[NAME] = (tensors[NAME] * 100).to(dtype)
    (model / "model.safetensors").unlink()
    save_file(tensors, model / shard, {"format": "pt"})
    if shard != "model.safetensors":
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidInputError, match=f"{shard}: {NAME} is stored as "):
        load_model(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_floating_point_weights_are_read(model: Path, dtype: torch.dtype) -> None:
    tensors = load_file(model / "model.safetensors")
    for name in tensors:
        tensors[name] = tensors[name].to(dtype)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    configure(model, dtype=str(dtype).removeprefix("torch."))
    assert next(load_model(model).parameters()).dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_a_configuration_of_no_floats_is_refused(model: Path, dtype: str) -> None:
    configure(model, dtype=dtype)
    with pytest.raises(InvalidInputError, match=re.escape(str(model))):
        load_model(model)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}


@pytest.mark.parametrize("whole", [True, False])
def test_fp8_weights_need_their_scales(model: Path, whole: bool) -> None:
    """Without it, each weight was taken for what its scale makes of it."""
    tensors = load_file(model / "model.safetensors")
    expected = {}
    for name, tensor in list(tensors.items()):
        if name.endswith("proj.weight"):
            tensors[name] = tensor.to(torch.float8_e4m3fn)
            expected[name] = 2 * tensors[name].float()
            tensors[f"{name}_scale_inv"] = torch.full((1, 1), 2.0)
    if not whole:
        del tensors[f"{NAME}_scale_inv"]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    configure(model, quantization_config=FP8)
    if whole:
        assert torch.equal(load_model(model).get_parameter(NAME).float(), expected[NAME])
        return
    with pytest.raises(InvalidInputError, match=f"its scale {NAME}_scale_inv is missing"):
        load_model(model)
