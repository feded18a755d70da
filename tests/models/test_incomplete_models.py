"""Model directories that are not what they say: one line that names the first tensor."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
    XLMConfig,
    XLNetConfig,
)
from typer.testing import CliRunner

from tspo_cli.commands.app import app
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.evaluation.answering.open_engine import open_engine
from tspo_cli.models.checks.vocabulary import check_vocabulary
from tspo_cli.models.eos import saved_eos_ids
from tspo_cli.models.load_model import load_model, load_tokenizer, model_config
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.training.policy import starting_policy
from tspo_cli.work_limits import memory_at_most

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
ENCODER = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
Tensors = dict[str, torch.Tensor]


def llama(folder: Path, *, tied: bool = False, shard: str = "5GB") -> Path:
    config = LlamaConfig(**SHAPE, tie_word_embeddings=tied)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shard)
    return folder


def edit(folder: Path, change: Callable[[Tensors], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(TspoError) as caught:
        load_model(folder)
    assert caught.type in (InvalidInputError, MissingResourceError)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(folder))
    return text


@pytest.mark.parametrize(
    ("names", "first", "count"),
    [
        (["lm_head.weight"], "lm_head.weight", "1 tensor"),
        (["model.embed_tokens.weight"], "model.embed_tokens.weight", "1 tensor"),
        (["model.norm.weight", "lm_head.weight"], "lm_head.weight", "2 tensors"),
        (["model.layers.1.mlp.up_proj.weight"], "model.layers.1.mlp.up_proj.weight", "1 tensor"),
    ],
)
def test_missing_tensors(tmp_path: Path, names: list[str], first: str, count: str) -> None:
    folder = llama(tmp_path / "model")
    edit(folder, lambda tensors: [tensors.pop(name) for name in names])
    text = refusal(folder)
    assert f"{count} of the model" in text
    assert first in text


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        (500, ": config.json says 500 layers (num_hidden_layers), but the files have 21 tensors; "),
        (10**12, "/config.json: num_hidden_layers: expected at most 10,000 layers, found 10000000"),
        ("2", "/config.json: num_hidden_layers: expected at most 10,000 layers, found"),
    ],
)
def test_layers_that_the_files_cannot_have(layers: object, named: str, tmp_path: Path) -> None:
    """Each would be made and filled at random before the first missing tensor is named."""
    folder = llama(tmp_path / "model")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": layers}))
    assert refusal(folder).startswith(f"{folder}{named}")


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 10**9},
        {"intermediate_size": 10**8},
        {"hidden_size": 10**6},
        {"num_key_value_heads": 10**8},
        {"head_dim": 10**8},
        {"vocab_size": 10**15},
    ],
)
def test_memory_that_the_files_cannot_fill(change: dict[str, int], tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with memory_at_most(2**29):
        assert re.fullmatch(
            rf"{folder}: config.json describes a model of [0-9,]+ numbers, but the files have "
            r"[0-9,]+ numbers; use the configuration that belongs to the weights",
            refusal(folder),
        )


@pytest.mark.parametrize("key", ["num_labels", "num_hidden_layers"])
def test_lists_that_a_configuration_would_make(key: str, tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    config = folder / "config.json"
    inner = {"vision_config": {"model_type": "clip_vision_model", key: 10**9}}
    config.write_text(json.dumps(json.loads(config.read_text()) | inner))
    with memory_at_most(2**29):
        assert f"{config}: {key}: expected at most 10,000" in refusal(folder)


def test_a_tensor_that_a_file_has_twice(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    first = '"model.norm.weight":{"dtype":"F16","shape":[64],"data_offsets":[0,128]},'
    header = b"{" + first.encode() + content[9:end]
    weights.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    assert refusal(folder).startswith(
        f'{weights}: expected each tensor once, got "model.norm.weight" twice; '
    )


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "added_tokens.json", "chat_template.jinja"]
)
def test_a_file_with_a_hole_of_gigabytes(tmp_path: Path, name: str) -> None:
    folder = llama(tmp_path / "model")
    (folder / name).touch()
    os.truncate(folder / name, 2**33)
    assert refusal(folder).startswith(f"{folder / name}: expected at most 1,073,741,824 bytes, f")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize(
    "named",
    [
        "kernels-community/flash-attn",
        "org/name",
        "paged|org/name",
        "flash_attention_3",
        {"": "o/n"},
    ],
)
def test_attention_is_never_fetched(key: str, named: object, tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: named}))
    text = refusal(folder)
    assert text.startswith(f"{config}: {key} is ")
    assert "code that is not installed here; expected one of eager, sdpa" in text


def test_attention_of_torch_may_be_named(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    config = folder / "config.json"
    record = json.loads(config.read_text()) | {"_attn_implementation": "eager"}
    config.write_text(json.dumps(record | {"attn_implementation": None}))
    load_model(folder)


def test_a_head_that_differs_from_the_embedding_it_is_tied_to(tmp_path: Path) -> None:
    """transformers would take the head, vLLM and the copy that an engine makes the embedding."""
    folder = llama(tmp_path / "model", tied=True)
    name = "model.embed_tokens.weight"
    edit(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[name].clone()}))
    load_model(folder)
    edit(folder, lambda tensors: tensors["lm_head.weight"].neg_())
    assert "has tie_word_embeddings, but the head in the files (lm_head.weight)" in refusal(folder)
    edit(folder, lambda tensors: tensors.pop(name))
    load_model(folder)


def test_a_body_alone_and_a_reward_model_have_no_head(tmp_path: Path) -> None:
    LlamaModel(LlamaConfig(**SHAPE)).save_pretrained(tmp_path / "body")
    assert "lm_head.weight" in refusal(tmp_path / "body")
    reward = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1, pad_token_id=0))
    reward.save_pretrained(tmp_path / "reward")
    assert "lm_head.weight" in refusal(tmp_path / "reward")


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "score.weight", "model.layers.0.mlp.up_proj.bias"]
)
def test_unexpected_tensors(tmp_path: Path, name: str) -> None:
    folder = llama(tmp_path / "model")
    edit(folder, lambda tensors: tensors.update({name: torch.ones(3)}))
    text = refusal(folder)
    assert name in text
    assert "1 tensor" in text


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    edit(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    text = refusal(folder)
    assert "model.norm.weight" in text
    assert "[31]" in text
    assert "[32]" in text


def test_a_vocabulary_of_another_size_than_the_configuration_says(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model", tied=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 70}))
    text = refusal(folder)
    assert "model.embed_tokens.weight" in text
    assert "[64, 32]" in text


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    """transformers takes that of the last file, whatever the index says."""
    folder = llama(tmp_path / "model", shard="20KB")
    first, last = (sorted(folder.glob("*.safetensors"))[at] for at in (0, -1))
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(last) | {name: tensor + 1}, last, metadata={"format": "pt"})
    assert f"{last}: expected each tensor once, got '{name}' there and in another" in refusal(
        folder
    )


@pytest.mark.parametrize("name", ["._model-00001-of-00002.safetensors", "old.safetensors"])
def test_files_beside_the_shards_are_not_read(tmp_path: Path, name: str) -> None:
    folder = llama(tmp_path / "model", shard="20KB")
    (folder / name).write_bytes(b"\0\5\x16\7 of macOS")
    load_model(folder)


@pytest.mark.parametrize("gone", [1, 3])
def test_shards_that_are_not_there(tmp_path: Path, gone: int) -> None:
    folder = llama(tmp_path / "model", shard="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    for shard in shards[1 : 1 + gone]:
        shard.unlink()
    text = refusal(folder)
    assert shards[1].name in text
    assert f"{gone} of {len(shards)} files" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "expected a JSON object"),
        ('{"model_type": "llama", "hidden_size": 32, "num_attention_heads": 5}', "multiple"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "hidden_size"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_line(
    tmp_path: Path, text: str, words: str
) -> None:
    folder = llama(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidInputError, match=words) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    tiny_tokenizer(["river"], ["ba"]).save_pretrained(folder)
    with contextlib.suppress(InvalidInputError):  # a tokenizer may be read without it
        load_tokenizer(folder)


def test_harmless_differences_load(tmp_path: Path) -> None:
    load_model(llama(tmp_path / "tied", tied=True))
    copies = llama(tmp_path / "copies", tied=True)
    edit(
        copies,
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
        ),
    )
    load_model(copies)
    extras = llama(tmp_path / "extras")
    edit(
        extras,
        lambda tensors: tensors.update(
            {
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
                "v_head.summary.weight": torch.ones(1, 32),
                "v_head.summary.bias": torch.ones(1),
            }
        ),
    )
    load_model(extras)
    ids = {"bos_token_id": 0, "eos_token_id": 1}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, **ids))
    gpt2.save_pretrained(tmp_path / "gpt2")
    edit(
        tmp_path / "gpt2",
        lambda tensors: tensors.update(
            {
                "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8),
                "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
            }
        ),
    )
    load_model(tmp_path / "gpt2")


def encoders(folder: Path, kind: str) -> Path:
    heads = {"num_attention_heads": 2}
    if kind == "bert":
        BertForMaskedLM(BertConfig(**ENCODER, **heads)).save_pretrained(folder)
    elif kind == "roberta":
        RobertaForMaskedLM(RobertaConfig(**ENCODER, **heads)).save_pretrained(folder)
    elif kind == "t5":
        shape = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        T5ForConditionalGeneration(shape).save_pretrained(folder)
    elif kind == "bart":
        sides = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
        }
        BartForConditionalGeneration(
            BartConfig(vocab_size=64, d_model=32, **sides)
        ).save_pretrained(folder)
    else:
        shape = {name: value for name, value in ENCODER.items() if name != "vocab_size"}
        ViTModel(ViTConfig(**shape, **heads, image_size=32, patch_size=16)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "feature"),
    [
        ("bert", "attends in both directions"),
        ("roberta", "attends in both directions"),
        ("t5", "encoder-decoder"),
        ("bart", "encoder-decoder"),
        ("vit", "no causal language model"),
    ],
)
def test_models_that_are_no_causal_language_models(tmp_path: Path, kind: str, feature: str) -> None:
    folder = encoders(tmp_path / kind, kind)
    text = refusal(folder)
    assert feature in text
    assert kind in text
    with pytest.raises(InvalidInputError, match=feature):
        model_config(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    custom = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config | custom))
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    assert "code of its own" in refusal(folder)


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    tokenizer = tiny_tokenizer(["word"], ["ba"])
    tokenizer.save_pretrained(folder)
    largest = max(tokenizer.get_vocab().values())
    with pytest.raises(InvalidInputError, match=rf"{largest + 1} ids.*64 rows"):
        check_vocabulary(folder, load_tokenizer(folder), 64)
    check_vocabulary(folder, tokenizer, largest + 1)
    check_vocabulary(folder, tokenizer, largest + 100)  # padded embeddings are common


def test_no_revision_for_a_directory(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    for load in (load_model, load_tokenizer, model_config):
        with pytest.raises(InvalidInputError, match=r"model\.revision"):
            load(folder, revision="main")


@pytest.mark.parametrize(
    ("config", "causal"),
    [
        (GPTNeoXConfig(), True),
        (BertConfig(is_decoder=True), True),
        (XLNetConfig(), False),
        (XLMConfig(), False),
        (XLMConfig(causal=True), True),
    ],
)
def test_causal_kinds(tmp_path: Path, config: PreTrainedConfig, causal: bool) -> None:
    config.save_pretrained(tmp_path)
    if causal:
        model_config(tmp_path)
    else:
        with pytest.raises(InvalidInputError, match="both directions"):
            model_config(tmp_path)


HUB = "tspo-tests/tiny"
COMMITS = {"main": "a" * 40, "step-10": "b" * 40}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A cached hub model without generation_config.json: `main`, and `step-10` with other
    weights.
    """
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    repository = cache / f"models--{HUB.replace('/', '--')}"
    folders = {}
    for number, (branch, commit) in enumerate(COMMITS.items()):
        torch.manual_seed(number)
        folders[branch] = repository / "snapshots" / commit
        llama(folders[branch])
        tiny_tokenizer(["word"], ["ba"]).save_pretrained(folders[branch])
        (folders[branch] / "generation_config.json").unlink()
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    return folders


@pytest.mark.parametrize("revision", ["main", "step-10", COMMITS["step-10"], ""])
def test_a_revision_of_a_hub_model(hub: dict[str, Path], revision: str) -> None:
    folder = hub["step-10" if revision in ("step-10", COMMITS["step-10"]) else "main"]
    wanted = AutoModelForCausalLM.from_pretrained(folder)
    loaded = load_model(HUB, revision=revision)
    assert torch.equal(loaded.lm_head.weight, wanted.lm_head.weight)
    tokenizer = load_tokenizer(HUB, revision)
    assert saved_eos_ids(HUB, tokenizer, revision) == [1, 2]


def test_a_revision_that_is_not_there(hub: dict[str, Path]) -> None:
    for load in (load_model, load_tokenizer, model_config):
        with pytest.raises(MissingResourceError, match="step-11") as caught:
            load(HUB, revision="step-11")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"attn_implementation": "org/name"}, "code that is not installed here"),
        ({"num_hidden_layers": 10**9}, "at most 10,000"),
        ({"num_hidden_layers": 5000}, "says 5,000 layers"),
        ({"vocab_size": 10**9}, "but the files have"),
        ({"intermediate_size": 10**9}, "but the files have"),
        ({"transformers_weights": "other.safetensors"}, "expected the weights in"),
    ],
)
def test_a_configuration_on_the_hub_is_checked_before_it_is_loaded(
    hub: dict[str, Path], values: dict[str, object], words: str
) -> None:
    load_model(HUB)  # what is loaded once is no part of the limit
    config = hub["main"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    with memory_at_most(2**29), pytest.raises(InvalidInputError, match=words):
        load_model(HUB)
    load_model(HUB, revision="step-10")


@pytest.mark.parametrize("changed", [{"pad_token_id": ""}, {"max_new_tokens": "x"}])
@pytest.mark.parametrize("local", [True, False])
def test_generation_defaults_that_transformers_cannot_read(
    hub: dict[str, Path], changed: dict[str, object], local: bool
) -> None:
    """It passed over all of them, end-of-sequence tokens included, or ended in a traceback."""
    path = hub["main"] / "generation_config.json"
    model = str(hub["main"]) if local else HUB
    tokenizer = load_tokenizer(model)
    path.write_text(json.dumps({"eos_token_id": [3, 5]}))
    assert saved_eos_ids(model, tokenizer) == [1, 2, 3, 5]
    path.write_text(json.dumps({"eos_token_id": [3, 5]} | changed))
    for read in (lambda: saved_eos_ids(model, tokenizer), lambda: load_model(model)):
        with pytest.raises(InvalidInputError) as refused:
            read()
        assert str(refused.value).startswith(f"{path}: expected options of a generation, but ")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("file", ["tokenizer.json", "special_tokens_map.json"])
def test_a_tokenizer_on_the_hub_with_a_key_twice(hub: dict[str, Path], file: str) -> None:
    path = hub["main"] / file
    path.write_text('{"a": 1, "b": 0, "a": 2}')
    with pytest.raises(InvalidInputError, match=f'{path}: expected each key once, got "a" twice'):
        load_tokenizer(HUB)
    load_tokenizer(HUB, "step-10")


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_on_the_hub_that_is_no_object(hub: dict[str, Path], file: str) -> None:
    path = hub["main"] / file
    path.write_text("[]")
    with pytest.raises(InvalidInputError, match=f"{path}: expected a JSON object"):
        load_tokenizer(HUB)


def test_shards_on_the_hub_are_checked_too(hub: dict[str, Path]) -> None:
    llama(hub["step-10"], shard="20KB")
    (hub["step-10"] / "model.safetensors").unlink(missing_ok=True)
    load_model(HUB, revision="step-10")
    config = hub["step-10"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 10**9}))
    with pytest.raises(InvalidInputError, match="but the files have"):
        load_model(HUB, revision="step-10")
    next(hub["step-10"].glob("*-00001-of-*")).unlink()
    with pytest.raises(MissingResourceError, match="of the weights is missing"):
        load_model(HUB, revision="step-10")


def test_the_revision_is_in_the_signature(hub: dict[str, Path]) -> None:
    tokens = len(load_tokenizer(HUB))
    for folder in hub.values():
        config = LlamaConfig(**SHAPE | {"vocab_size": tokens})
        LlamaForCausalLM(config).save_pretrained(folder)
    setting = f"model.path={HUB}"
    assert open_engine(load_config([], [setting])).model == HUB
    for revision in ("step-10", COMMITS["step-10"]):
        opened = open_engine(load_config([], [setting, f'model.revision="{revision}"']))
        assert opened.model == f"{HUB}@bbbbbbbbbbbb"


def test_eval_refuses_before_it_asks_anything(hub: dict[str, Path], tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"id": "1", "question": "who?", "golden_answers": ["me"]}\n')

    def run(model: object, *options: str) -> tuple[int, str]:
        command = ["eval", str(model), "--data", str(questions), "--method", "direct"]
        outcome = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), *options])
        assert not (tmp_path / "out").exists()
        error = outcome.exception
        assert isinstance(error, TspoError), outcome.output
        return error.exit_code, str(error)

    code, text = run(HUB, "--revision", "step-11")
    assert code == 4
    assert "step-11" in text
    code, text = run(HUB, "--revision", "main")  # 64 rows, more ids
    assert code == 3
    assert "64 rows" in text
    code, text = run(hub["main"], "--revision", "main")
    assert code == 3
    assert "leave it empty" in text
    bert = encoders(tmp_path / "bert", "bert")
    tiny_tokenizer(["word"], ["ba"]).save_pretrained(bert)
    code, text = run(bert)
    assert code == 3
    assert "both directions" in text
    served = ("--endpoint", "http://127.0.0.1:9/v1", "--revision", "main")
    code, text = run(HUB, *served)
    assert code == 2
    assert "server" in text


def test_a_dry_run_refuses(hub: dict[str, Path], tmp_path: Path) -> None:
    settings = [f"model.path={HUB}", 'model.revision="step-10"']
    with pytest.raises(InvalidInputError, match="64 rows"):
        starting_policy(load_config([], settings), "cpu")
    edit(hub["step-10"], lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(InvalidInputError, match=r"lm_head\.weight"):
        starting_policy(load_config([], settings), "cpu")


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "5", "[" * 100_000, '{"model_type": ["qwen2"]}', '{"model_type": "llama", '
     '"hidden_size": "x"}', '{"model_type": "llama", "num_attention_heads": 0}'],
)  # fmt: skip
def test_a_configuration_of_another_form(tmp_path: Path, text: str) -> None:
    folder = llama(tmp_path / "model")
    (folder / "config.json").write_text(text)
    assert refusal(folder)


@pytest.mark.parametrize("text_config", [{"hidden_size": 5}, {"model_type": "llama"}, {}])
def test_a_table_in_the_place_of_a_configuration(tmp_path: Path, text_config: object) -> None:
    folder = llama(tmp_path / "model")
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"text_config": text_config}))
    assert "/config.json: cannot be read: " in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["sub/model.safetensors", "other.safetensors", "model.safetensors.index.json",
     "adapter_model.bin", 5, ["a"]],
)  # fmt: skip
def test_a_configuration_names_no_other_weights(tmp_path: Path, name: object) -> None:
    folder = llama(tmp_path / "model")
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"transformers_weights": name}))
    assert "transformers_weights names " in refusal(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hosts", "a/b.safetensors", "b"])
def test_an_index_of_weights_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    folder = llama(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"weight_map names {name}" in refusal(folder)
