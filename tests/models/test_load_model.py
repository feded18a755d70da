from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.models.small_tokenizers import byte_level
from tspo_cli.config.schema import ModelConfig
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.models.tiny import tiny_model
from tspo_cli.models.tokenizer import tiny_tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "policy"
    tiny_model(64, ModelConfig(hidden_size=64), 0).save_pretrained(path)
    tiny_tokenizer(["word"], ["ba"]).save_pretrained(path)
    return path


def test_model_and_its_type(directory: Path) -> None:
    assert load_model(directory).dtype == torch.float32
    model = load_model(str(directory), torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert load_tokenizer(directory).eos_token_id == 1


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_no_such_directory(tmp_path: Path, load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MissingResourceError, match="no such model directory"):
        load(tmp_path / "nothing")
    with pytest.raises(MissingResourceError, match="no such model directory"):
        load("runs-that-are-not-here")
    (tmp_path / "file").write_text("x")
    with pytest.raises(MissingResourceError, match="expected a directory of a model, got a file"):
        load(tmp_path / "file")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_mistyped_path_below_a_folder_is_no_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(MissingResourceError, match="no such model directory"):
        load("runs/warmstart")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_hub_name_that_is_not_cached(load, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingResourceError, match="hub or its cache") as caught:
        load("tspo-tests/not-cached")
    assert "\n" not in str(caught.value)


def test_incomplete_directories(directory: Path) -> None:
    for name, what in (("model.safetensors", "weights"), ("config.json", "configuration")):
        (directory / name).unlink()
        with pytest.raises(MissingResourceError, match=f"no {what}"):
            load_model(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    with pytest.raises(MissingResourceError, match="no tokenizer"):
        load_tokenizer(directory)


@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_is_no_part_of_a_model(directory: Path, alone: bool) -> None:
    """It depends on the packages that are installed whether it is read."""
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "other/base"}')
    if alone:
        (directory / "config.json").unlink()
        (directory / "model.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"holds an adapter .*merge it"):
        load_model(directory)


def test_damaged_files(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InvalidInputError, match="cannot be read as a causal language model"):
        load_model(directory)
    (directory / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(InvalidInputError) as caught:
        load_model(directory)
    assert "\n" not in str(caught.value)
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInputError, match="cannot be read as a tokenizer"):
        load_tokenizer(directory)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"eos_token_id": 2', "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[2]", "expected a JSON object"),
        (b'{"eos_token_id": 2, "eos_token_id": 3}', 'expected each key once, got "eos_token_id"'),
        (b'{"eos_token_id": "</s>"}', "eos_token_id: expected a token id"),
        (b'{"eos_token_id": [2, null]}', "eos_token_id: expected a token id"),
    ],
)
def test_a_damaged_generation_file_is_named(directory: Path, text: bytes, problem: str) -> None:
    (directory / "generation_config.json").write_bytes(text)
    with pytest.raises(InvalidInputError, match=problem) as refused:
        load_model(directory)
    assert str(refused.value).startswith(f"{directory / 'generation_config.json'}: ")
    assert "\n" not in str(refused.value)
    (directory / "generation_config.json").unlink()
    load_model(directory)


@pytest.mark.parametrize("becomes", ["", "x", "the"])
@pytest.mark.parametrize("pattern", [".", r"[\s\S]+"])
def test_a_normalizer_that_leaves_no_text(tmp_path: Path, becomes: str, pattern: str) -> None:
    byte_level().save_pretrained(tmp_path)
    load_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    normalizer = {"type": "Replace", "pattern": {"Regex": pattern}, "content": becomes}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": normalizer}))
    with pytest.raises(InvalidInputError, match=r"makes only \d+ different texts? of \d+ words of"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.json", "special_tokens_map.json"])
def test_a_key_that_a_file_of_the_tokenizer_has_twice(directory: Path, file: str) -> None:
    (directory / file).write_text('{"model": {"vocab": {"a": 1, "b": 0, "a": 2}}}')
    with pytest.raises(InvalidInputError) as refused:
        load_tokenizer(directory)
    assert str(refused.value).startswith(f'{directory / file}: expected each key once, got "a" twi')


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("config.json", "[]", "expected a JSON object"),
        ("config.json", ' "text"', "expected a JSON object"),
        ("config.json", "null", "expected a JSON object"),
        ("config.json", "", "expected a JSON object"),
        ("config.json", "{", "not valid JSON"),
        ("config.json", '{"a": {"b": 1, "b": 2}}', 'each key once, got "b" twice'),
        ("config.json", '{"model_type": ["qwen2"]}', "model_type: expected a name"),
        ("config.json", '{"model_type": 5}', "model_type: expected a name"),
        ("tokenizer_config.json", "[]", "expected a JSON object"),
        ("tokenizer_config.json", '{"model_max_length": "x"}', "model_max_length: expected a numb"),
        ("tokenizer_config.json", '{"model_max_length": [1]}', "model_max_length: expected a numb"),
        ("tokenizer_config.json", '{"model_max_length": -1}', "model_max_length: expected a numb"),
        ("tokenizer_config.json", '{"model_input_names": 5}', "model_input_names: expected a list"),
        ("special_tokens_map.json", "5", "expected a JSON object"),
        ("tokenizer.json", "[]", "expected a JSON object"),
    ],
)
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_files_that_are_no_objects_are_named(  # type: ignore[no-untyped-def]
    directory: Path, file: str, text: str, problem: str, load
) -> None:
    (directory / file).write_text(text)
    with pytest.raises(InvalidInputError, match=problem) as refused:
        load(directory)
    assert str(refused.value).startswith(f"{directory / file}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 5}}', '{"weight_map": null}'),
        *('{"metadata": {}, "weight_map": {}}', '{"weight_map": {"a": "b.safetensors"}}'),
        '{"metadata": [], "weight_map": {"a": "b.safetensors"}}',
    ],
)
def test_an_index_of_weights_that_is_none_is_named(directory: Path, text: str) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    (directory / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InvalidInputError, match=r'index\.json: expected \{"weight_map"'):
        load_model(directory)
