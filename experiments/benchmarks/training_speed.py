"""Training speed of packed rows compared with padded batches, at the lengths of a run's rollouts.

    python experiments/benchmarks/training_speed.py runs/demo/tspo [--json]

One process, one thread, the run's model. Three arms alternate: padded in the order of the
rollouts, padded after sorting by length, and packed. The table shows trained tokens per CPU second,
the median over the repeats. The lines after it show the peak
memory of the log-probabilities of 16,384 tokens over a vocabulary of 151,936, computed at once or
in portions.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from tspo_cli.models.load_model import load_model
from tspo_cli.models.logprobs import head_scores
from tspo_cli.models.packed_attention import enable_packing
from tspo_cli.training.core.micro_batches import MicroBatch, micro_batches
from tspo_cli.training.core.policy_learner import TrainedPositions
from tspo_cli.training.core.sequences import TrainSequence

TOKENS, VOCABULARY, WIDTH = 16_384, 151_936, 64
ARMS = ("padded, in order", "padded, sorted", "packed")


def step_of(path: Path, vocabulary: int, rng: random.Random) -> list[TrainSequence]:
    """Sequences of random tokens with the lengths and trained spans of one step's rollouts."""
    sequences = []
    with gzip.open(path, "rt") as file:
        for rollout in (record for line in file for record in json.loads(line)["trajectories"]):
            spans = [(rollout["prompt_tokens"], 0.0)]
            for turn in rollout["turns"]:
                spans += [(turn["tokens"], 1.0), (turn["feedback_tokens"], 0.0)]
            weights = [weight for length, weight in spans for _ in range(length)]
            ids = [rng.randrange(vocabulary) for _ in weights]
            sequences.append(
                TrainSequence(ids, weights, weights, [-2.0 * weight for weight in weights])
            )
    return sequences


def batches_of(arm: str, sequences: list[TrainSequence], budget: int) -> list[MicroBatch]:
    """The micro-batches of one step."""
    if arm == "padded, in order":
        # Consecutive rollouts form a batch, as in trainers that do not sort.
        size = max(1, budget // max(len(sequence.token_ids) for sequence in sequences))
        portions = [sequences[start : start + size] for start in range(0, len(sequences), size)]
        budget = 10**9
    else:
        portions = [sequences]
    packed = arm == "packed"
    return [
        batch
        for portion in portions
        for batch in micro_batches(
            portion, [sequence.weights for sequence in portion], budget, packed=packed
        )
    ]


def speed(run: Path, budget: int, repeats: int) -> dict[str, float]:
    """Trained tokens per CPU second of each arm: micro-batches, forward and backward pass."""
    rng = random.Random(0)
    models = {}
    for arm in ARMS:
        models[arm] = TrainedPositions(load_model(run / "model").train(), 1.0, "logged")
        if arm == "packed":
            enable_packing(models[arm].model)
    vocabulary = models["packed"].model.config.vocab_size
    steps = [
        step_of(path, vocabulary, rng) for path in sorted((run / "rollouts").glob("*.gz"))[::10]
    ]
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for repeat in range(repeats + 1):
        for arm, model in models.items():
            started, tokens = time.process_time(), 0
            for sequences in steps:
                model.zero_grad()
                for batch in batches_of(arm, sequences, budget):
                    (model(batch)[0] * batch.coefficients).sum().backward()
                    tokens += len(batch.weights)
            if repeat:  # the first round warms up
                rates[arm].append(tokens / (time.process_time() - started))
    return {arm: statistics.median(values) for arm, values in rates.items()}


def measure_memory(portions: bool) -> None:
    """Print by how many MiB the log-probabilities and their gradient raise the peak memory."""
    import tspo_cli.models.logprobs as module

    torch.set_num_threads(1)
    if not portions:
        module.KEPT_LOGITS = 2**62
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ids = torch.randint(0, VOCABULARY, (TOKENS,))
    head_scores(hidden, head, VOCABULARY, ids, entropy="logged")[0].sum().backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/demo/tspo"))
    parser.add_argument("--budget", type=int, default=8192, help="tokens per micro-batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", choices=["at once", "in portions"], help=argparse.SUPPRESS)
    parser.add_argument(
        "--all-memory", action="store_true", help="also without portions: needs about 40 GB"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.memory:
        measure_memory(args.memory == "in portions")
        return

    torch.set_num_threads(1)
    rates = speed(args.run, args.budget, args.repeats)
    memory = {}
    for arm in ["in portions", *(["at once"] if args.all_memory else [])]:
        done = subprocess.run(
            [sys.executable, __file__, "--memory", arm], capture_output=True, text=True, check=True
        )
        memory[arm] = float(done.stdout)
    if args.json:
        print(json.dumps({"trained_tokens_per_cpu_second": rates, "logprob_peak_mib": memory}))
        return
    print(f"{'arm':<20}{'trained tokens/CPU s':>22}{'packed is':>12}")
    for name, value in rates.items():
        print(f"{name:<20}{value:>22.0f}{rates['packed'] / value:>11.2f}x")
    for name, value in memory.items():
        print(
            f"log-probabilities of {TOKENS} tokens x {VOCABULARY} words, {name}: {value:.0f} MiB "
            "more at the peak"
        )


if __name__ == "__main__":
    main()
