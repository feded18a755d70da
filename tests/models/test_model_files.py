"""What stands in the place of a model's files: transformers passes over what is no file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.models.checks.vocabulary import check_vocabulary
from tspo_cli.models.eos import saved_eos_ids
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.models.tokenizer import tiny_tokenizer

FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = tiny_tokenizer(["river"], ["ba"])
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, **shape)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def set_in(path: Path, **values: object) -> None:
    """Set keys of a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(model: Path, name: str) -> None:
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for load in (load_model, load_tokenizer):
        with pytest.raises(InvalidInputError, match=f"{name}: .* Git LFS pointer.*git lfs pull"):
            load(model)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("directory", "expected a file, got a directory"),
        ("pipe", "expected a file, got a named pipe"),
        ("device", "expected a file, got a device"),
        ("nothing", "is a link to nothing (blobs/none)"),
    ],
)
def test_what_is_no_file_is_named(model: Path, name: str, kind: str, named: str) -> None:
    place = model / name
    place.unlink(missing_ok=True)
    if kind == "directory":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero" if kind == "device" else "blobs/none")
    for load in (load_model, load_tokenizer):
        if kind == "nothing" and name == "config.json" and load is load_model:
            continue  # a model without its configuration is none at all
        with pytest.raises(InvalidInputError) as refused:
            load(model)
        assert str(refused.value).startswith(f"{place}: {named}; copy the file from")


def test_a_tokenizer_without_words_is_none(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(MissingResourceError) as refused:
        load_tokenizer(model)
    assert str(refused.value) == (
        f"{model}: the tokenizer has no vocabulary, for there is no tokenizer.json; copy the file "
        "from the original model again"
    )


@pytest.mark.parametrize("files", [["tokenizer.1.0.json"], ["tokenizer.0.json", "../x.json"]])
def test_a_tokenizer_whose_words_are_named_elsewhere_is_none(model: Path, files: list[str]) -> None:
    path = model / "tokenizer_config.json"
    record = json.loads(path.read_text("utf-8")) | {"fast_tokenizer_files": files}
    path.write_text(json.dumps(record))
    with pytest.raises(
        InvalidInputError, match=r"no vocabulary, though there is a tokenizer\.json"
    ):
        load_tokenizer(model)


def test_an_id_that_a_tokenizer_adds_to_every_text_needs_a_row(model: Path) -> None:
    path = model / "tokenizer.json"
    record = json.loads(path.read_text("utf-8"))
    record["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "x", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"x": {"id": "x", "ids": [10**6], "tokens": ["x"]}},
    }
    path.write_text(json.dumps(record))
    tokenizer = load_tokenizer(model)
    with pytest.raises(InvalidInputError, match="adds the id 1000000 to every text"):
        check_vocabulary(model, tokenizer, len(tokenizer))


def opened(model: Path) -> None:
    """Open a model as a command does."""
    load_tokenizer(model)
    load_model(model)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hidden_size", "32", "Field 'hidden_size' expected int, got str"),
        ("hidden_size", None, "Field 'hidden_size' expected int"),
        ("num_attention_heads", 0, "zero"),
        ("hidden_act", "none_such", "KeyError 'none_such'"),
    ],
)
def test_a_wrong_value_of_the_configuration_is_not_the_tokenizers(
    model: Path, key: str, value: object, said: str
) -> None:
    """A tokenizer is opened with the configuration beside it."""
    set_in(model / "config.json", **{key: value})
    with pytest.raises(InvalidInputError) as refused:
        opened(model)
    text = str(refused.value)
    assert text.startswith(f"{model}/config.json: cannot be read: ")
    assert said in text
    assert text.endswith("; copy the file from the original model again")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("ends", [10**6, [1, 10**6], -1])
def test_a_token_that_ends_a_sequence_needs_a_row(model: Path, name: str, ends: object) -> None:
    """The engine spoke of an index out of bounds, and took -1 for the last token."""
    set_in(model / name, eos_token_id=ends)
    tokenizer = load_tokenizer(model)
    with pytest.raises(InvalidInputError, match=r"ends a sequence|eos_token_id: expected"):
        check_vocabulary(model, tokenizer, len(tokenizer), saved_eos_ids(str(model), tokenizer))


def test_links_to_files_are_files(model: Path) -> None:
    """The cache of the hub has links alone."""
    for path in [*model.iterdir()]:
        path.rename(model.parent / path.name)
        path.symlink_to(Path("..") / path.name)
    load_model(model)
    assert load_tokenizer(model)("river").input_ids
