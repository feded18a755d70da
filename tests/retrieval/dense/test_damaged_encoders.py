"""Encoders and rerankers whose files are not whole: refused in one line, never drawn at random."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.dense.load_encoder import load_reranker
from tspo_cli.work_limits import memory_at_most

WEIGHTS = "model.safetensors"
QUERY = "encoder.layer.0.attention.self.query.weight"
Damage = Callable[[Path], object]


@pytest.fixture
def copy(saved_encoder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    shutil.copytree(saved_encoder, folder)
    return folder


def tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    found = load_file(folder / WEIGHTS)
    change(found)
    save_file(found, folder / WEIGHTS, metadata={"format": "pt"})


def setting(name: str, **values: object) -> Damage:
    def damage(folder: Path) -> None:
        record = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(record | values))

    return damage


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content)


def without(name: str) -> Damage:
    return lambda folder: tensors(folder, lambda found: found.pop(name))


def of_other_shape(folder: Path) -> None:
    import torch

    tensors(folder, lambda found: found.update({QUERY: torch.zeros(3, 3)}))


def of_integers(folder: Path) -> None:
    import torch

    tensors(folder, lambda found: found.update({QUERY: (found[QUERY] * 100).to(torch.int8)}))


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


BAD_POOLING = '{"embedding_dimension": 7, "pooling_mode": "mean"}'
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a missing tensor": (without(QUERY), QUERY),
    "missing embeddings": (without("embeddings.word_embeddings.weight"), "word_embeddings"),
    "more layers": (setting("config.json", num_hidden_layers=3), r"encoder\.layer"),
    "another shape": (of_other_shape, QUERY),
    "integers": (of_integers, f"{QUERY} is stored as I8"),
    "an unknown quantisation": (
        setting("config.json", quantization_config={"quant_method": "zzz"}),
        "quant_method 'zzz'",
    ),
    "a wrong type": (setting("config.json", hidden_size="x"), "hidden_size"),
    "cut weights": (lambda folder: os.truncate(folder / WEIGHTS, 5000), "cannot be loaded"),
    "no tokenizer": (without_tokenizer, "tokenizer has no vocabulary"),
    "no modules": (text("modules.json", "[5]"), "cannot be loaded"),
    "an unknown module": (
        text("modules.json", '[{"idx": 0, "name": "0", "path": "", "type": "os.system"}]'),
        "code of its own",
    ),
    "pooling of another width": (text("1_Pooling/config.json", BAD_POOLING), "cannot be loaded"),
    "pooling that is a list": (text("1_Pooling/config.json", "[]"), "cannot be loaded"),
    "a length that is text": (
        text("sentence_bert_config.json", '{"max_seq_length": "x"}'),
        "cannot be loaded",
    ),
    "weights elsewhere": (
        text("model.safetensors.index.json", '{"weight_map": {"x": "../outside.safetensors"}}'),
        r"weight_map names \.\./outside",
    ),
    "weights below": (
        setting("config.json", transformers_weights="sub/model.safetensors"),
        "transformers_weights names 'sub/model",
    ),
    "a negative length": (
        text("sentence_bert_config.json", '{"max_seq_length": -1}'),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_encoder_is_refused_in_one_line(
    copy: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, said = DAMAGES[name]
    damage(copy)
    with pytest.raises(InvalidInputError, match=said) as refused:
        Encoder(str(copy), DenseSettings())
    assert "\n" not in str(refused.value)
    assert str(copy) in str(refused.value)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_a_sound_encoder_may_lack_what_no_vector_needs(
    copy: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    whole = Encoder(str(copy), DenseSettings()).encode(["a heron"])
    assert caplog.messages == [], "nothing about layers that are not spread over processes"
    tensors(copy, lambda found: [found.pop(f"pooler.dense.{name}") for name in ("weight", "bias")])
    assert (Encoder(str(copy), DenseSettings()).encode(["a heron"]) == whole).all()


def test_settings_of_an_encoder_allow_no_code(copy: Path) -> None:
    """`auto_map` names a file of the directory, which transformers runs where it is trusted."""
    (copy / "evil.py").write_text(
        "open(__file__ + '.executed', 'w').close()\nfrom transformers import BertConfig as Mine\n"
    )
    setting("config.json", model_type="mine", auto_map={"AutoConfig": "evil.Mine"})(copy)
    trust = {"trust_remote_code": True}
    setting("sentence_bert_config.json", model_args=trust, config_args=trust)(copy)
    with pytest.raises(TspoError):
        Encoder(str(copy), DenseSettings())
    assert not [*copy.rglob("*.executed")]


@pytest.mark.parametrize("name", ["config.json", "sentence_bert_config.json"])
def test_an_encoder_fetches_no_attention(copy: Path, name: str) -> None:
    named = {"attn_implementation": "kernels-community/flash-attn"}
    setting(name, **(named if name == "config.json" else {"model_args": named}))(copy)
    with pytest.raises(InvalidInputError, match=r"attn_implementation is 'kernels-community/fl"):
        Encoder(str(copy), DenseSettings())


@pytest.mark.parametrize("key", ["vocab_size", "intermediate_size", "max_position_embeddings"])
def test_memory_that_the_files_cannot_fill(copy: Path, reranker: Path, key: str) -> None:
    Encoder(str(copy), DenseSettings())  # what is loaded once is no part of the limit
    for folder in (copy, reranker):
        setting("config.json", **{key: 10**9})(folder)
    said = r"config.json describes a model of [0-9,]+ numbers, but the files have"
    with memory_at_most(2**29):
        with pytest.raises(InvalidInputError, match=said):
            Encoder(str(copy), DenseSettings())
        with pytest.raises(InvalidInputError, match=said):
            load_reranker(str(reranker), "cpu")


def test_a_tokenizer_that_deletes_words(copy: Path, reranker: Path) -> None:
    deletes = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    for folder in (copy, reranker):
        setting("tokenizer.json", normalizer=deletes)(folder)
        # BertTokenizer makes its own normalizer.
        setting("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")(folder)
    said = r"er .*: the tokenizer makes only .* of its own vocabulary"
    with pytest.raises(InvalidInputError, match=f"^encod{said}"):
        Encoder(str(copy), DenseSettings())
    with pytest.raises(InvalidInputError, match=f"^rerank{said}"):
        load_reranker(str(reranker), "cpu")


@pytest.fixture
def cached(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The encoder in the cache of the hub, as org/encoder."""
    cache = tmp_path / "hub"
    for constants in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = cache / "models--org--encoder" / "snapshots" / ("a" * 40)
    folder.parent.mkdir(parents=True)
    copy.rename(folder)
    (cache / "models--org--encoder" / "refs").mkdir()
    (cache / "models--org--encoder" / "refs" / "main").write_text("a" * 40)
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"attn_implementation": "o/n"}, "attn_implementation is 'o/n'"),
        ({"vocab_size": 10**9}, "but the files have"),
        ({"transformers_weights": "other.safetensors"}, "expected the weights in"),
    ],
)
def test_an_encoder_on_the_hub_is_checked_before_it_is_loaded(
    cached: Path, values: dict[str, object], words: str
) -> None:
    assert Encoder("org/encoder", DenseSettings()).encode(["a heron"]).shape[0] == 1
    setting("config.json", **values)(cached)
    with memory_at_most(2**29), pytest.raises(InvalidInputError, match=words):
        Encoder("org/encoder", DenseSettings())


class Evil:
    """Unpickled, it makes the file that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("key", ["model_args", "model_kwargs"])
def test_settings_of_an_encoder_unpickle_nothing(copy: Path, reranker: Path, key: str) -> None:
    """`weights_only` false lets torch run the code in a pickled file, where transformers looks for
    the form of numbers.
    """
    import torch

    settings = [DenseSettings(), DenseSettings.model_validate({"encoder_backend": "onnx"})]
    loads: list[Callable[[], object]] = [lambda: load_reranker(str(reranker), "cpu")]
    loads += [lambda own=own: Encoder(str(copy), own) for own in settings]  # type: ignore[misc]
    for folder in (copy, reranker):
        (folder / WEIGHTS).unlink()
        torch.save({"x": Evil(folder / "executed")}, folder / "pytorch_model.bin")
        setting("sentence_bert_config.json", **{key: {"weights_only": False}})(folder)
        config = json.loads((folder / "config.json").read_text())
        config = {name: value for name, value in config.items() if name != "dtype"}
        (folder / "config.json").write_text(json.dumps(config))
    for load in loads:
        with pytest.raises(InvalidInputError, match="cannot be loaded"):
            load()
    assert not [*copy.parent.rglob("executed")]


@pytest.mark.parametrize("name", ["config.json", "config_sentence_transformers.json"])
@pytest.mark.parametrize(
    "function", ["torch.utils.collect_env.main", "torch.nn.init.zeros_", "os.getcwd", "torch.nn"]
)
def test_a_reranker_calls_no_function_that_its_files_name(
    reranker: Path, name: str, function: str, capfd: pytest.CaptureFixture[str]
) -> None:
    named: dict[str, object] = {"activation_fn": function}
    if name == "config.json":  # which is read where the other file does not say
        setting("config_sentence_transformers.json", activation_fn=None)(reranker)
        named = {"sentence_transformers": named}
    setting(name, **named)(reranker)
    with pytest.raises(InvalidInputError, match=r"is no layer of torch\.nn"):
        load_reranker(str(reranker), "cpu")
    assert "environment" not in capfd.readouterr().out


def test_a_reranker_has_the_activation_that_it_was_saved_with(reranker: Path) -> None:
    scores = {}
    for function in ("torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"):
        setting("config_sentence_transformers.json", activation_fn=function)(reranker)
        scores[function] = float(load_reranker(str(reranker), "cpu").predict([("a", "b")])[0])
    plain, bent = scores.values()
    assert bent == pytest.approx(math.tanh(plain))


def test_an_encoder_is_no_reranker(copy: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"classifier\.(bias|weight).* at random"):
        load_reranker(str(copy), "cpu")


def test_a_missing_model_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no such reranker directory"):
        load_reranker(str(tmp_path / "nowhere"), "cpu")
