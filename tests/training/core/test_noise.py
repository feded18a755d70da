"""The policy that is trained is the policy that rolled out: nothing random acts in an update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from tests.training.core.learner_worker import VOCABULARY, make_config, make_sequences
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.policy_learner import PolicyLearner

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
OPT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 48,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
}
EXPERTS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
# Models with something random in training mode: dropout in modules of its own, dropout in the code
# of a layer, whole layers left out, noise of a router.
NOISY = {
    "modules": ("GPT2", {**GPT2, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}),
    "code": ("OPT", {**OPT, "dropout": 0.5, "attention_dropout": 0.5}),
    "layers": ("OPT", {**OPT, "dropout": 0.0, "layerdrop": 0.9}),
    "attention": ("Llama", {**EXPERTS, "attention_dropout": 0.5}),
    "router": ("Mixtral", {**EXPERTS, "router_jitter_noise": 0.5}),
}


@pytest.fixture(scope="module", autouse=True)
def process_group() -> None:
    init_distributed()


def noisy_model(name: str, options: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        **{"initializer_range": 0.2, "init_std": 0.2, **options},
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).train()


@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("kind", NOISY)
def test_the_first_update_is_on_policy(kind: str, checkpointing: str) -> None:
    config = make_config(
        "train.packing=false", f"train.gradient_checkpointing={checkpointing}", "loss.kl=0"
    )
    model = noisy_model(*NOISY[kind])
    learner = PolicyLearner(model, config, total_updates=2)
    sequences = make_sequences(seed=1)
    sequences = [
        replace(sequence, old_logprobs=values)
        for sequence, values in zip(sequences, learner.logprobs(sequences), strict=True)
    ]
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    layers = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList))
    leaf = next(part for part in layers[-1].modules() if not list(part.children()))
    leaf.register_forward_pre_hook(count)
    batches = len(learner.core._batches(sequences, [row.weights for row in sequences]))
    metrics = learner.update_policy(sequences)
    assert metrics["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["ratio_mean"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["grad_norm"] > 0
    # With checkpointing the parts of a layer are computed once more, in the backward pass.
    assert passes == batches * (2 if checkpointing == "true" else 1)
    assert not any(module.training for module in model.modules())
