"""One training step on a tree of 8 leaves that share half of their tokens, and on 8 whole
sequences.

    python experiments/benchmarks/tree_step.py [--repeats 5] [--hidden 384] [--layers 6] [--json]

One process, one thread, a Qwen2 policy with random weights. Every leaf has `--tokens` tokens; the
first half is that of all leaves, a prompt, two turns and their passages. The step is the learner's
own: forward and backward pass, the clipped loss and the optimiser, in float32. Both arms begin with
the same weights and train on the same tokens; the tree's shared ones go through the model once.
Times are CPU seconds of the process (other work on the machine does not count), taken in turns; the
ratio is that of the medians. The largest difference of a gradient says that both are the same step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.common import machine
from tspo_cli.config.load_config import load_config
from tspo_cli.console import counted
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence

LEAVES = 8
ARMS = {"tree": "always", "whole": "never"}


def leaves(tokens: int, vocabulary: int) -> list[TrainSequence]:
    """Leaves of `tokens` tokens, half of them common. Of every 100 tokens 40 are sampled."""
    random = np.random.default_rng(0)
    shared = random.integers(0, vocabulary, tokens // 2).tolist()
    old = -10 - random.random(tokens)
    weights = [float(index % 100 >= 60) for index in range(tokens)]
    sequences = []
    for _ in range(LEAVES):
        ids = shared + random.integers(0, vocabulary, tokens - tokens // 2).tolist()
        advantages = (random.normal() * np.array(weights)).tolist()
        sequences.append(TrainSequence(ids, weights, advantages, old.tolist()))
    return sequences


def learner_of(arm: str, options: argparse.Namespace) -> PolicyLearner:
    """A learner on a policy with random weights, the same ones for every arm."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=max(1, options.hidden // 192),
        tie_word_embeddings=True,
    )
    settings = (
        f"train.share_prefixes={ARMS[arm]}",
        f"train.tokens_per_micro_batch={LEAVES * options.tokens}",
        "optimizer.lr=1e-6",
        "train.steps=1",
    )
    return PolicyLearner(
        Qwen2ForCausalLM(config), load_config([], list(settings)), total_updates=99
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of a step for each arm, their ratio, and how far the gradients are apart."""
    sequences = leaves(options.tokens, options.vocabulary)
    learners = {arm: learner_of(arm, options) for arm in ARMS}
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    gradients: dict[str, list[torch.Tensor]] = {}
    for repeat in range(options.repeats + 1):
        for arm, learner in learners.items():
            kept = gradients.setdefault(arm, []) if not repeat else []

            def keep(_: torch.Tensor, learner: Any = learner, kept: Any = kept) -> None:
                kept.extend(parameter.grad.clone() for parameter in learner.module.parameters())

            started = time.process_time()
            learner.update_policy(sequences, keep if not repeat else None)
            if repeat:  # the first step warms up
                seconds[arm].append(time.process_time() - started)
    tokens = {
        arm: learner.core.computed_tokens // (options.repeats + 1)
        for arm, learner in learners.items()
    }
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    return {
        "parameters": sum(one.numel() for one in learners["tree"].module.parameters()),
        "tokens": tokens,
        "tokens_ratio": tokens["tree"] / tokens["whole"],
        "seconds": medians,
        "ratio": medians["tree"] / medians["whole"],
        "largest_gradient": max(float(one.abs().max()) for one in gradients["whole"]),
        "largest_difference": max(
            float((one - other).abs().max())
            for one, other in zip(gradients["tree"], gradients["whole"], strict=True)
        ),
        "machine": machine(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512, help="of each leaf")
    parser.add_argument("--hidden", type=int, default=384, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    init_distributed()
    found = measure(options)
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{found['parameters'] / 1e6:.1f} M parameters, {LEAVES} leaves of "
        f"{counted(options.tokens, 'token')} "
        f"({found['machine']})"
    )
    for arm in ARMS:
        print(f"{arm:5}  {found['tokens'][arm]:5} tokens  {found['seconds'][arm]:.3f} CPU s a step")
    print(
        f"tree / whole: {found['ratio']:.3f} of the CPU seconds, {found['tokens_ratio']:.3f} of "
        f"the tokens; gradients differ by at most {found['largest_difference']:.1e} (the largest "
        f"is {found['largest_gradient']:.1e})"
    )


if __name__ == "__main__":
    main()
