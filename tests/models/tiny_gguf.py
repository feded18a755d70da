"""Tiny GGUF files with random weights, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from transformers import PreTrainedTokenizerFast

from tspo_cli.models.tokenizer import tiny_tokenizer

WIDTH, HEADS, INNER, LAYERS = 64, 2, 128, 2
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_gguf(
    path: Path,
    architecture: str = "llama",
    *,
    fields: dict[str, int] | None = None,
    eos: bool = True,
    template: str = CHATML,
    without: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
    split: int = 0,
    quantised: bool = True,
    rope: float = 10_000.0,
) -> PreTrainedTokenizerFast:
    """Write a GGUF file of `architecture`; return the tokenizer whose vocabulary it has.

    `without` names tensors to leave out, `more` further tensors; `quantised`: matrices as Q8_0.
    `rope` is the base of the rotary embedding.
    """
    tokenizer = tiny_tokenizer(["river", "town"], ["ba", "ko"])
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(rope)
    writer.add_vocab_size(len(tokens))
    for name, value in (fields or {}).items():
        writer.add_uint32(name, value)
    if split:
        writer.add_uint16("split.count", split)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    if eos:
        writer.add_eos_token_id(1)
    if template:
        writer.add_chat_template(template)
    rng = np.random.default_rng(0)
    for name, shape in _shapes(len(tokens), architecture).items():
        if name not in without:
            _add(writer, name, rng.standard_normal(shape, np.float32) * 0.1, quantised)
    for name in more:
        _add(writer, name, np.ones(16, np.float32), False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tokenizer


def _add(writer: GGUFWriter, name: str, weights: np.ndarray, quantised: bool) -> None:
    if quantised and weights.ndim == 2:
        kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(weights, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, weights)


def _shapes(vocabulary: int, architecture: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        block = {
            "attn_norm.weight": (WIDTH,),
            "ffn_norm.weight": (WIDTH,),
            **{f"attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
            "ffn_gate.weight": (INNER, WIDTH),
            "ffn_up.weight": (INNER, WIDTH),
            "ffn_down.weight": (WIDTH, INNER),
        }
        if architecture == "qwen2":
            block |= {f"attn_{part}.bias": (WIDTH,) for part in ("q", "k", "v")}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return shapes
