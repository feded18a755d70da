"""Mutations of a model directory."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from experiments.reliability.damage import (
    DEEP,
    Mutation,
    byte_damage,
    json_damage,
    json_edits,
    tensor_edits,
    text_edits,
)

CONFIG_EDITS: dict[str, Any] = {
    "hidden_size": "x", "hidden_size|0": 0, "hidden_size|huge": 10**18, "vocab_size": -1,
    "vocab_size|less": 8, "num_hidden_layers": 1.5, "num_hidden_layers|less": 1,
    "num_attention_heads": 0, "model_type": "zzz", "model_type|list": ["qwen2"],
    "model_type|no": ...,
    "architectures": 5, "eos_token_id": "x", "eos_token_id|far": 10**9, "torch_dtype": "float7",
    "dtype": "int8", "rms_norm_eps": float("nan"), "rope_parameters": [1], "hidden_act": "zzz",
    "max_position_embeddings": -5, "auto_map": {"AutoModelForCausalLM": "evil.Evil"},
    "tie_word_embeddings": "perhaps", "quantization_config": {"quant_method": "zzz"},
    "layer_types": ["zzz"], "rope_parameters|deep": DEEP,
}  # fmt: skip
TEMPLATES = {
    "syntax": "{% for m in messages %}{{ m.content",
    "refuses": "{{ raise_exception('no') }}",
    "unknown filter": "{{ messages | zzz }}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "division": "{{ 1 / 0 }}",
    "index": "{{ messages[9]['content'] }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "empty": " ",
    "recursion": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "huge power": "{{ 9 ** 9 ** 9 ** 9 }}",
}


def model_mutations(model: Path, count: int, draw: random.Random) -> list[Mutation]:
    """At most `count`: configuration, weights, templates, then chance."""
    first = "model.layers.0.mlp.up_proj.weight"
    outside = json.dumps({"metadata": {}, "weight_map": {first: "../../outside.safetensors"}})
    aimed = [
        *json_edits("config.json", CONFIG_EDITS),
        *text_edits("config.json", {"a list": "[]", "null": "null", "deep": "[" * 10**5, "5": "5"}),
        *tensor_edits("model.safetensors", {
            "missing": lambda t: t.pop(first),
            "extra": lambda t: t.update(zzz=t[first] + 1),
            "one NaN": lambda t: t[first][0].fill_(float("nan")),
            "NaN of a token": lambda t: t["model.embed_tokens.weight"][-1].fill_(float("nan")),
            "infinite": lambda t: t[first].fill_(float("inf")),
            "integers": lambda t: t.update({first: t[first].int()}),
            "another shape": lambda t: t.update({first: t[first][:-1].clone()}),
            "nothing": lambda t: t.clear(),
        }),
        Mutation("weight_map out", "model.safetensors", lambda path: (
            path.rename(path.parent.parent / "outside.safetensors"),
            (path.parent / "model.safetensors.index.json").write_text(outside),
        )),
        Mutation("weight_map a list", "model.safetensors", lambda path: (
            path.rename(path.with_name("a.safetensors")),
            (path.parent / "model.safetensors.index.json").write_text('{"weight_map": []}'),
        )),
        *json_edits("tokenizer_config.json", {
            f"chat_template|{name}": template for name, template in TEMPLATES.items()
        }),
        *json_edits("tokenizer_config.json", {
            "tokenizer_class": "zzz", "tokenizer_class|no": 5, "eos_token": 5,
            "added_tokens_decoder": [], "model_max_length": "x", "chat_template": 5,
        }),
        *text_edits("tokenizer.json", {"{}": "{}", "list": "[]", "deep": "[" * 10**5}),
        *json_edits("tokenizer.json", {"model": {}, "added_tokens": 5, "pre_tokenizer": None}),
        *text_edits("generation_config.json", {"list": "[]", "text": '{"eos_token_id": "x"}'}),
    ]  # fmt: skip
    made = aimed if len(aimed) <= count else draw.sample(aimed, count * 9 // 10)
    files = sorted(path.name for path in model.iterdir() if path.is_file())
    while len(made) < count:
        file = draw.choice(files)
        is_json = file.endswith(".json") and draw.random() < 0.5
        made.append(json_damage(file, draw) if is_json else byte_damage(file, draw))
    return made[:count]
