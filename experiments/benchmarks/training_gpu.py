"""The training step of a policy with the shape of a 3B model and random weights on one GPU: tokens
per second, share of the GPU's peak, memory.

    python experiments/benchmarks/training_gpu.py    Qwen2.5-3B's shape, 256 trajectories
    python experiments/benchmarks/training_gpu.py --trajectories 2560 --arms compile:24576
    python experiments/benchmarks/training_gpu.py --shape tiny --trajectories 8   on a CPU

An arm is MODE:TOKENS, where TOKENS is the size of a micro-batch. Modes: plain, compile
(train.compile), checkpoint (gradient checkpointing), checkpoint+compile. A trajectory has a prompt
of 250 tokens, then 2 to 4 turns of 50 to 200 sampled tokens and 350 to 500 tokens of passages, and
an answer: about 2,000 tokens, a quarter of them trained.

The share of the peak is operations per second over --peak (989 TFLOP/s: dense bfloat16 on an H100
or H200). Operations of the forward and backward pass: 6 for each token and weight outside the
embedding, 6 for each trained token and weight of the head, and for causal attention 6 x layers x
hidden size x length squared. Recomputation does not count. Each arm runs in its own process;
`planned` is the estimate of `tspo plan`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tspo_cli.console import agreeing

SHAPES = {
    "qwen2.5-3b": (2048, 36, 16, 2, 11008, 151936),
    "qwen2.5-1.5b": (1536, 28, 12, 2, 8960, 151936),
    "tiny": (128, 2, 4, 2, 256, 2000),
}
PARTS = ("forward_backward", "optimizer")


def model_config(shape: str) -> Any:
    from transformers import Qwen2Config

    hidden, layers, heads, kv_heads, intermediate, vocabulary = SHAPES[shape]
    return Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    )


def trajectories(count: int, vocabulary: int) -> list[Any]:
    """Training sequences of random tokens with the lengths of a search agent's trajectories."""
    from tspo_cli.training.core.sequences import TrainSequence

    rng = random.Random(0)
    sequences = []
    for _ in range(count):
        weights = [0.0] * 250
        for _ in range(rng.randint(2, 4)):
            weights += [1.0] * rng.randint(50, 200) + [0.0] * rng.randint(350, 500)
        weights += [1.0] * rng.randint(50, 150)
        advantage = rng.choice([-1.0, 1.0])
        ids = [rng.randrange(vocabulary) for _ in weights]
        # About the log-probability of a random token, so that ratios are near 1, as on policy.
        sequences.append(
            TrainSequence(
                ids,
                weights,
                [advantage * weight for weight in weights],
                [-12.0 * weight for weight in weights],
            )
        )
    return sequences


def operations(shape: str, sequences: list[Any]) -> float:
    """Floating-point operations of a forward and backward pass over the sequences."""
    hidden, layers, heads, kv_heads, intermediate, vocabulary = SHAPES[shape]
    kv = hidden // heads * kv_heads
    weights = layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * intermediate)
    lengths = [len(sequence.token_ids) for sequence in sequences]
    trained = trained_tokens(sequences)
    attention = 6 * layers * hidden * sum(length * length for length in lengths)
    return 6.0 * weights * sum(lengths) + 6.0 * vocabulary * hidden * trained + attention


def trained_tokens(sequences: list[Any]) -> int:
    """The number of tokens that have a weight in the loss."""
    return sum(sum(weight > 0 for weight in sequence.weights) for sequence in sequences)


def experiment(args: argparse.Namespace, folder: Path) -> Any:
    """The configuration of an arm. `folder` holds the model's config.json."""
    from tspo_cli.config.schema import Config

    mode, _, tokens = args.arm.partition(":")
    half = args.shape != "tiny"
    return Config.model_validate(
        {
            "kind": "rl",
            "model": {"path": str(folder), "dtype": "bfloat16" if half else "float32"},
            "rollout": {
                "max_searches": 4,
                "max_new_tokens": 200,
                "max_observation_tokens": 500,
                "batch_size": 256,
            },
            "loss": {"kl": 0.0},
            "deepspeed": {"zero_stage": args.zero_stage},
            "train": {
                "tokens_per_micro_batch": int(tokens),
                "compile": "compile" in mode,
                "gradient_checkpointing": "checkpoint" in mode,
            },
        }
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train one arm in this process and measure it."""
    import torch
    from transformers import AutoModelForCausalLM

    from tspo_cli.training.core.distributed import init_distributed, shutdown
    from tspo_cli.training.core.policy_learner import PolicyLearner
    from tspo_cli.training.planning.estimate import estimate_run

    with tempfile.TemporaryDirectory() as folder:
        shape = model_config(args.shape)
        shape.save_pretrained(folder)
        config = experiment(args, Path(folder))
        gpus = torch.cuda.device_count()
        planned = estimate_run(config, min(gpus, 1))["memory_per_process_gib"]
        device = init_distributed()
        torch.manual_seed(0)
        with torch.device(device):
            kind = torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32
            model = AutoModelForCausalLM.from_config(shape, dtype=kind)
        learner = PolicyLearner(model, config, total_updates=100)
        sequences = trajectories(args.trajectories, shape.vocab_size)
        learner.update_policy(sequences[: args.warm_up])
        learner.core.clock.take()
        if gpus:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        learner.update_policy(sequences)
        if gpus:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        parts = learner.core.clock.take()
        shutdown()
    tokens = sum(len(sequence.token_ids) for sequence in sequences)
    return {
        "arm": args.arm,
        "trajectories": len(sequences),
        "tokens": tokens,
        "trained": trained_tokens(sequences),
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "mfu": operations(args.shape, sequences) / seconds / (args.peak * 1e12),
        **{name: parts.get(name, 0.0) for name in PARTS},
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if gpus else 0.0,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if gpus else 0.0,
        "planned_gib": planned["total"]
        - planned.get("engine_weights", 0)
        - planned.get("kv_cache", 0),
        "planned": planned,
        "device": torch.cuda.get_device_name() if gpus else "CPU",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-3b")
    parser.add_argument("--trajectories", type=int, default=256)
    parser.add_argument(
        "--warm-up", type=int, default=32, help="trajectories of a first update, which is not timed"
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["checkpoint:16384", "checkpoint+compile:16384", "compile:8192"],
    )
    parser.add_argument("--zero-stage", type=int, default=1)
    parser.add_argument("--peak", type=float, default=989.0, help="peak of the GPU, TFLOP/s")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object per arm")
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(measure(args)))
        return
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    options = [word for word in sys.argv[1:] if word != "--json"]
    for arm in args.arms:
        done = subprocess.run(
            [sys.executable, __file__, *options, "--arm", arm], capture_output=True, text=True
        )
        if done.returncode:
            print(f"{arm}: {done.stderr.strip().splitlines()[-1][:300]}", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(row) if args.json else as_text(row), flush=True)


def as_text(row: dict[str, Any]) -> str:
    """One arm in three lines."""
    return (
        f"{row['arm']} on {row['device']}: "
        f"{agreeing(row['trajectories'], 'trajectory', 'trajectories')}, {row['tokens']} tokens "
        f"({row['trained']} trained) in {row['seconds']:.1f} s: {row['tokens_per_s']:.0f} "
        "tokens/s, "
        f"{row['mfu']:.1%} of the peak\n"
        f"    {', '.join(f'{name} {row[name]:.2f} s' for name in PARTS)}\n"
        f"    memory {row['peak_gib']:.1f} GiB allocated, {row['reserved_gib']:.1f} reserved, "
        f"planned {row['planned_gib']:.1f}"
    )


if __name__ == "__main__":
    main()
