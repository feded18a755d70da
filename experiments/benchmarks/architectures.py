"""Which architectures of transformers tspo computes as they compute themselves.

    python experiments/benchmarks/architectures.py [--json] [--only NAME ...]

Every row is a tiny model with random weights. Its settings make a mistake visible: windows that are
shorter than the sequences, soft-caps and scales that act, sinks, biases and norms that are not
trivial. Engine and learner are compared with the model's own forward pass in float32: the largest
difference of a log-probability, in nats. A model that `tspo train` or `tspo eval` would refuse has
the reason in place of a number. Exit code 1 if any row is wrong.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.probe import Probe, own_probe
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.rollout.engines.hf.engine_check import check_engine, engine_gap
from tspo_cli.training.start.model_check import check_learner, learner_gap

LIMIT = 1e-4
VOCABULARY = 320
WINDOW = 14
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
MLA = {
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
UNSET = object()
OWN_HEADS = {"head_dim": UNSET}
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512, "n_inner": 96}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A row: the name of the configuration class without its ending, and what is set beside
    `COMMON`.
    """

    name: str
    config: str
    options: dict[str, Any]


def _rows() -> list[Architecture]:
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("Qwen2", "Qwen2", {}),
        ("Qwen2, tied", "Qwen2", {"tie_word_embeddings": True}),
        (
            "Qwen2, window in the upper layers",
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        ),
        (
            "Qwen2, window switched off",
            "Qwen2",
            {"use_sliding_window": False, "sliding_window": WINDOW},
        ),
        ("Qwen3", "Qwen3", {}),
        ("Qwen2-MoE", "Qwen2Moe", {**EXPERTS, "moe_intermediate_size": 48}),
        ("Qwen3-MoE", "Qwen3Moe", {**EXPERTS, "moe_intermediate_size": 48}),
        ("Llama", "Llama", {}),
        ("Llama, biased and tied", "Llama", {"attention_bias": True, "tie_word_embeddings": True}),
        ("Llama, llama3 rope", "Llama", {"rope_parameters": LLAMA3}),
        ("Llama, yarn rope", "Llama", {"rope_parameters": YARN}),
        ("Mistral", "Mistral", {"sliding_window": None}),
        ("Mistral, window", "Mistral", {"sliding_window": WINDOW}),
        ("Mixtral, window", "Mixtral", {**EXPERTS, "sliding_window": WINDOW}),
        ("Ministral, window", "Ministral", {"sliding_window": WINDOW}),
        ("Gemma", "Gemma", {}),
        (
            "Gemma 2, window and soft-caps",
            "Gemma2",
            {
                "sliding_window": WINDOW,
                "final_logit_softcapping": 5.0,
                "attn_logit_softcapping": 3.0,
                "query_pre_attn_scalar": 16,
            },
        ),
        ("Gemma 3, window", "Gemma3Text", {"sliding_window": WINDOW}),
        ("Phi", "Phi", {"num_key_value_heads": 4}),
        ("Phi-3, window", "Phi3", {"sliding_window": WINDOW}),
        ("Phi-MoE, window", "Phimoe", {**EXPERTS, "sliding_window": WINDOW}),
        ("Starcoder2, window", "Starcoder2", {"sliding_window": WINDOW}),
        (
            "Granite, all multipliers",
            "Granite",
            {
                "logits_scaling": 8.0,
                "embedding_multiplier": 6.0,
                "residual_multiplier": 0.5,
                "attention_multiplier": 0.1,
            },
        ),
        ("Granite-MoE", "GraniteMoe", {**EXPERTS, "logits_scaling": 8.0}),
        ("Cohere, logit scale", "Cohere", {"logit_scale": 0.25}),
        (
            "Cohere 2, logit scale and window",
            "Cohere2",
            {"logit_scale": 0.25, "sliding_window": WINDOW},
        ),
        ("OLMo", "Olmo", {}),
        ("OLMo 2", "Olmo2", {}),
        ("OLMo 3, window", "Olmo3", {"sliding_window": WINDOW}),
        ("OLMoE", "Olmoe", EXPERTS),
        ("SmolLM3", "SmolLM3", {"no_rope_layers": [1, 0, 1]}),
        ("GLM", "Glm", {}),
        ("GLM 4", "Glm4", {}),
        ("gpt-oss, sinks and window", "GptOss", {**EXPERTS, "sliding_window": WINDOW}),
        ("Exaone 4, window", "Exaone4", {"sliding_window": WINDOW}),
        ("Ernie 4.5", "Ernie4_5", {}),
        ("Seed-OSS", "SeedOss", {}),
        ("Hunyuan", "HunYuanDenseV1", {}),
        ("Helium", "Helium", {}),
        ("Nemotron", "Nemotron", {}),
        ("Apertus", "Apertus", {}),
        ("Arcee", "Arcee", {}),
        ("MiniCPM3", "MiniCPM3", {**MLA, "scale_depth": 1.4, "scale_emb": 6.0}),
        (
            "DeepSeek V3",
            "DeepseekV3",
            {
                **MLA,
                **EXPERTS,
                "head_dim": 8,
                "n_routed_experts": 4,
                "n_group": 1,
                "topk_group": 1,
                "moe_intermediate_size": 48,
                "first_k_dense_replace": 1,
            },
        ),
        ("StableLM", "StableLm", {}),
        ("GPT-NeoX", "GPTNeoX", {}),
        ("GPT-2", "GPT2", GPT2),
        ("GPT-J", "GPTJ", {**GPT2, "rotary_dim": 8}),
        (
            "GPT-Neo, local attention",
            "GPTNeo",
            {
                "num_layers": 3,
                "num_heads": 4,
                "attention_types": [[["global", "local", "local"], 1]],
                "window_size": WINDOW,
            },
        ),
        ("OPT", "OPT", {"ffn_dim": 96, "word_embed_proj_dim": 32}),
        ("Falcon", "Falcon", {**OWN_HEADS, "new_decoder_architecture": True, "num_kv_heads": 2}),
        (
            "Falcon, alibi",
            "Falcon",
            {**OWN_HEADS, "alibi": True, "new_decoder_architecture": False},
        ),
        ("BLOOM, alibi", "Bloom", {"n_layer": 3, "n_head": 4}),
        ("MPT, alibi", "Mpt", {"d_model": 64, "n_layers": 3, "n_heads": 4, "expansion_ratio": 2}),
        ("Mamba", "Mamba", {"state_size": 8}),
        ("Falcon-H1", "FalconH1", {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_state": 16}),
        ("LFM2", "Lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
        (
            "Llama 4, chunks",
            "Llama4Text",
            {**EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 96},
        ),
        ("BERT, both directions", "Bert", {"is_decoder": False}),
    ]
    return [Architecture(*row) for row in rows]


ROWS = _rows()


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of an architecture: largest differences (nats) or reasons of a refusal."""

    name: str
    engine: float | str
    packed: float | str
    padded: float | str

    @property
    def is_wrong(self) -> bool:
        """True where a number is above the limit: neither right nor refused."""
        return any(
            isinstance(value, float) and not value <= LIMIT
            for value in (self.engine, self.packed, self.padded)
        )


def random_model(architecture: Architecture) -> Any:
    """The model in float32, with weights from a fixed seed."""
    import transformers

    config = getattr(transformers, f"{architecture.config}Config")(
        **{
            key: value
            for key, value in {**COMMON, **architecture.options}.items()
            if value is not UNSET
        }
    )
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms, biases, sinks: not all ones and zeros
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def measure(architecture: Architecture) -> Row:
    """Compare engine and learner with the model's own forward pass."""
    model = random_model(architecture)
    tokenizer = tiny_tokenizer(["river"], ["ba", "ko"])
    try:
        probe = own_probe(model, 512)
    except InvalidInputError as error:
        reason = str(error)
        return Row(architecture.name, reason, reason, reason)

    def padded(own: Probe) -> float:
        check_learner(model, own, packed=False)
        return learner_gap(model, own, packed=False)

    def engine(own: Probe) -> float:
        check_engine(model, tokenizer, own)
        return engine_gap(model, tokenizer, own)

    def packed(own: Probe) -> float:
        other = copy.deepcopy(model)
        check_learner(other, own, packed=True)
        return learner_gap(other, own, packed=True)

    return Row(
        architecture.name, *(_or_reason(compare, probe) for compare in (engine, packed, padded))
    )


def _or_reason(compare: Callable[[Probe], float], probe: Probe) -> float | str:
    try:
        return compare(probe)
    except InvalidInputError as error:
        return str(error)


def _line(row: Row) -> str:
    cells = [
        f"{value:.1e}" if isinstance(value, float) else f"refused: {value}"
        for value in (row.engine, row.packed, row.padded)
    ]
    return f"| {row.name} | {' | '.join(cells)} |{' WRONG' if row.is_wrong else ''}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these rows")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    chosen = [row for row in ROWS if not options.only or row.name in options.only]
    if not options.json:
        print("| model | engine | learner, packed | learner, padded |")
        print("|---|---:|---:|---:|")
    rows = []
    for architecture in chosen:
        rows.append(measure(architecture))
        if not options.json:
            print(_line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps([{**asdict(row), "wrong": row.is_wrong} for row in rows], indent=1))
    sys.exit(any(row.is_wrong for row in rows))


if __name__ == "__main__":
    main()
