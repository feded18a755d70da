"""Run by tests in a process of its own: `python adapters_job.py MODEL DTYPE`. Trains adapters for
ten updates, hands them to vLLM in this process, and prints what became of them.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping

import torch
from transformers import AutoTokenizer

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config, VllmConfig
from tspo_cli.models.load_model import load_model
from tspo_cli.models.lora import adapted_layers, add_lora
from tspo_cli.rollout.engines.vllm_engine.adapters import Adapters
from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.distributed import init_distributed, leave
from tspo_cli.training.core.engine_weights import frozen_weights, weights_for_engine, whole_weights
from tspo_cli.training.core.handover import hand_over
from tspo_cli.training.core.optimizer_state import full_parameters
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence

CONTEXT, UPDATES = 192, 10
Deltas = dict[str, torch.Tensor]
"""Layer -> what is added to its weights, float32."""


def make_config(model: str, dtype: str, rate: float) -> Config:
    settings = [
        *("kind=rl", f"model.path={model}", f"model.dtype={dtype}", "rollout.engine=vllm"),
        *("lora.rank=6", "lora.alpha=18", "lora.handover=adapters", "loss.kl=0"),
        *(f"optimizer.lr={rate}", "optimizer.warmup=0", "optimizer.schedule=constant"),
    ]
    return load_config(["tiny/grpo"], settings)


def make_learner(config: Config, dtype: torch.dtype) -> PolicyLearner:
    model = load_model(config.model.path, dtype)
    add_lora(model, config.lora, config.seed)
    return PolicyLearner(model, config, total_updates=10**6)


def update(learner: PolicyLearner, seed: int) -> None:
    rng = random.Random(seed)
    rows = [[rng.randrange(5, 60) for _ in range(rng.randint(8, 30))] for _ in range(6)]
    signs = [rng.choice((-1.0, 1.0)) for _ in rows]
    learner.update_policy(
        [
            TrainSequence(
                row,
                [0.0] + [1.0] * (len(row) - 1),
                [0.0] + [sign] * (len(row) - 1),
                [0.0] + [-4.0] * (len(row) - 1),
            )
            for row, sign in zip(rows, signs, strict=True)
        ]
    )


def trained_deltas(learner: PolicyLearner) -> Deltas:
    """The true update: from the float32 numbers that the optimiser holds."""
    lora = learner.config.lora
    values = {
        name: value.float()
        for name, value in full_parameters(learner.core.engine, learner.module)
        if ".lora_" in name
    }
    return {
        name.partition(".lora_A.")[0]: lora.alpha
        / lora.rank
        * (values[name.replace(".lora_A.", ".lora_B.")] @ value)
        for name, value in values.items()
        if ".lora_A." in name
    }


def held_deltas(engine: VllmEngine) -> Deltas:
    """What vLLM adds, from its own tables."""
    (held,) = engine.engine.collective_rpc("tspo_adapters")
    return {name: second.float() @ first.float() for name, (first, second) in held.items()}


def merged_deltas(learner: PolicyLearner, layers: Mapping[str, torch.Tensor]) -> Deltas:
    """What is left of the update in weights of the model's type."""
    merged, base = whole_weights(learner.core), frozen_weights(learner.core)
    return {
        name: merged[f"{name}.weight"].float() - base[f"{name}.weight"].float() for name in layers
    }


def lost_share(applied: Deltas, wanted: Deltas) -> float:
    """|applied - wanted| / |wanted| over all layers."""
    assert applied.keys() >= wanted.keys()
    lost = sum(float((applied[name] - value).square().sum()) for name, value in wanted.items())
    return float((lost / sum(float(value.square().sum()) for value in wanted.values())) ** 0.5)


def main() -> None:
    path, dtype, rate = sys.argv[1], sys.argv[2], float(sys.argv[3])
    config = make_config(path, dtype, rate)
    init_distributed()
    tokenizer = AutoTokenizer.from_pretrained(path)
    protocol = SearchProtocol.from_config(tokenizer, config.rollout)
    learner = make_learner(config, getattr(torch, dtype))
    lora, layers = config.lora, adapted_layers(learner.module)
    adapters = Adapters(lora.rank, lora.alpha, layers, lambda: frozen_weights(learner.core))
    engine = VllmEngine(
        path,
        VllmConfig(),
        dtype=dtype,
        eos_ids=[1],
        batch_size=8,
        max_context=CONTEXT,
        seed=0,
        adapters=adapters,
    )
    gaps = [hand_over(learner, engine, protocol, config, 0)]
    for number in range(UPDATES):
        update(learner, number)
    stale = engine.different_weight(weights_for_engine(learner.core))
    gaps.append(hand_over(learner, engine, protocol, config, UPDATES))
    wanted = trained_deltas(learner)
    result = {
        "stale": stale,
        "gaps": gaps,
        "layers": len(wanted),
        "lost": lost_share(held_deltas(engine), wanted),
        "lost_merged": lost_share(merged_deltas(learner, wanted), wanted),
    }
    print(json.dumps(result))
    engine.close()
    leave(0)


if __name__ == "__main__":
    main()
