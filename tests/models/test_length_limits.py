"""Models that are right for short sequences only: refused with the feature, and the limit works."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.answering.open_engine import open_engine
from tspo_cli.models.checks.length_limits import (
    ALLOW_LONG,
    check_length,
    check_vllm_length,
    length_limits,
    positions,
    vllm_length,
)
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.rollout.engines.vllm_engine.vllm_local import _reason
from tspo_cli.training.policy import starting_policy

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ROPE = {"rope_theta": 10000.0, "original_max_position_embeddings": 24}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0 + step for step in range(8)]}
UNSET = object()
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96}
LIMITED: dict[str, tuple[str, dict[str, Any], str]] = {
    "longrope": (
        "Phi3",
        {
            "rope_parameters": {"rope_type": "longrope", **ROPE, **FACTORS},
            "original_max_position_embeddings": 24,  # its configuration prefers this one
        },
        "longrope",
    ),
    "longrope, Llama": (
        "Llama",
        {"rope_parameters": {"rope_type": "longrope", **ROPE, **FACTORS}},
        "longrope",
    ),
    "dynamic": (
        "Llama",
        {
            "max_position_embeddings": 24,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
        "dynamic",
    ),
    "dynamic, Qwen2": (
        "Qwen2",
        {
            "max_position_embeddings": 24,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        },
        "dynamic",
    ),
    "local": (
        "GPTNeo",
        {
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 24,
        },
        "window_size",
    ),
    "sparse": ("Doge", {"keep_window_size": 24}, "keep_window_size"),
    "positions": ("GPT2", {**GPT2, "n_positions": 24}, "learned positions"),
    "positions, OPT": (
        "OPT",
        {"ffn_dim": 96, "word_embed_proj_dim": 64, "max_position_embeddings": 24},
        "learned positions",
    ),
}
UNLIMITED: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("Llama", {}),
    "llama3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 24,
            }
        },
    ),
    "yarn": ("Qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **ROPE}}),
    "rope for each kind of layer": ("Gemma3Text", {"head_dim": 16}),
    "alibi": ("Bloom", {"n_layer": 2, "n_head": 4}),
    "a window": ("Mistral", {"sliding_window": 24}),
}


def config_of(name: str, options: dict[str, Any]) -> Any:
    # Some name their sizes in their own way and refuse the common names beside them.
    unused = {
        "GPTNeo": ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        "GPT2": tuple(key for key in SHAPE if key.startswith(("num_", "max_", "hidden", "inter"))),
        "Bloom": ("num_hidden_layers", "num_attention_heads"),
    }.get(name, ())
    shape = {key: value for key, value in SHAPE.items() if key not in unused}
    return getattr(transformers, f"{name}Config")(**{**shape, **options})


def model_of(name: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(
        config_of(name, options), dtype=torch.float32
    ).eval()


@pytest.mark.parametrize("case", LIMITED)
def test_longer_sequences_are_refused(case: str) -> None:
    name, options, feature = LIMITED[case]
    model = model_of(name, options)
    check_length("DIR", model, 24)
    with pytest.raises(InvalidInputError, match=feature) as caught:
        check_length("DIR", model, 25)
    assert "model.max_context to at most 24" in str(caught.value)


@pytest.mark.parametrize("case", ["longrope", "dynamic", "dynamic, Qwen2"])
def test_the_limit_is_where_the_first_tokens_change(case: str) -> None:
    """Log-probabilities of a prefix change when the sequence outgrows the limit, not before."""
    model = model_of(*LIMITED[case][:2])
    ids = torch.arange(3, 60)[None]

    @torch.no_grad()
    def first(length: int) -> torch.Tensor:
        return model(input_ids=ids[:, :length], use_cache=False).logits[0, :12].log_softmax(-1)

    at_limit, beyond = first(24), first(25)
    torch.testing.assert_close(first(13), at_limit, atol=1e-4, rtol=1e-4)
    assert (beyond - at_limit).abs().max() > 1e-2


@pytest.mark.parametrize("case", UNLIMITED)
def test_other_models_have_no_limit(case: str) -> None:
    assert list(length_limits(model_of(*UNLIMITED[case]))) == []


def test_training_and_evaluation_refuse_and_take_the_advice(tmp_path: Path) -> None:
    model_of(*LIMITED["longrope, Llama"][:2]).save_pretrained(tmp_path)
    tiny_tokenizer(["word"], ["ba"]).save_pretrained(tmp_path)
    for limit, fine in ((25, False), (24, True)):
        config = load_config([], [f"model.path={tmp_path}", f"model.max_context={limit}"])
        if fine:
            starting_policy(config, "cpu")
            open_engine(config)
            continue
        with pytest.raises(InvalidInputError, match="longrope"):
            starting_policy(config, "cpu")
        with pytest.raises(InvalidInputError, match="longrope"):
            open_engine(config)


@pytest.mark.parametrize(
    ("architecture", "options", "limit"),
    [
        ("Llama", {}, 512),
        ("GPT2", {"n_positions": 320, "max_position_embeddings": UNSET}, 320),
        ("Mpt", {"max_seq_len": 96, "max_position_embeddings": UNSET}, 96),
        (
            "Qwen2",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **ROPE}},
            512,
        ),
        (
            "Qwen2",
            {
                "max_position_embeddings": 24,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, **ROPE},
            },
            96,
        ),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            1024,
        ),
        (
            "Phi3",
            {"rope_parameters": {"rope_type": "longrope", **ROPE, **FACTORS}},
            512,
        ),
        ("Bloom", {"max_position_embeddings": UNSET}, 0),
    ],
)
def test_what_vllm_takes_is_known_before_it_starts(
    architecture: str, options: dict[str, Any], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {name: value for name, value in {**SHAPE, **options}.items() if value is not UNSET}
    config = getattr(transformers, f"{architecture}Config")(**shape)
    assert vllm_length(config) == limit
    check_vllm_length("here", config, limit or 10**6)
    if limit:
        with pytest.raises(InvalidInputError, match=f"at most {limit}") as caught:
            check_vllm_length("here", config, limit + 1)
        assert "\n" not in str(caught.value)
        monkeypatch.setenv(ALLOW_LONG, "1")
        check_vllm_length("here", config, limit + 1)


def test_evaluation_and_training_with_vllm_are_refused_before_they_start(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(["river"], ["ba", "ko"])
    shape = {**SHAPE, "vocab_size": len(tokenizer)}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = [f"model.path={tmp_path}", "rollout.engine=vllm", "model.max_context=513"]
    settings += ["rollout.max_prompt_tokens=100", "rollout.max_new_tokens=10"]
    config = load_config([], [*settings, "rollout.max_observation_tokens=10"])
    with pytest.raises(InvalidInputError, match="at most 512"):
        open_engine(config)
    with pytest.raises(InvalidInputError, match="at most 512"):
        starting_policy(config, "cpu")
    servers = {"vllm": config.vllm.model_copy(update={"url": ["http://127.0.0.1:9"]})}
    starting_policy(config.model_copy(update=servers), "cpu")  # a server knows its own limit


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "1 validation error for ModelConfig\n  Value error, User-specified max_model_len (9) "
            "is greater than the derived one [type=value_error, input_value=Args()]\n  For more",
            "User-specified max_model_len (9) is greater than the derived one",
        ),
        ("No available memory for the cache blocks.\nTry again", "No available memory for the"),
        ("Model architectures ['A'] are not supported", "Model architectures ['A'] are not"),
        ("", "ValueError"),
    ],
)
def test_what_vllm_says_becomes_one_line(text: str, said: str) -> None:
    reason = _reason(ValueError(text))
    assert reason.startswith(said)
    assert "\n" not in reason
    assert "[type=" not in reason


@pytest.mark.parametrize(("said", "known"), [(512, 512), (0, 0), (-5, 0)])
def test_a_length_that_is_none_is_not_believed(said: int, known: int) -> None:
    config = transformers.LlamaConfig(**{**SHAPE, "max_position_embeddings": said})
    assert positions(SimpleNamespace(config=config)) == known
