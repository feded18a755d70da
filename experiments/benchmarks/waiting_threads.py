"""An update with as many threads as cores, alone and beside other work, by how its threads wait.

    python experiments/benchmarks/waiting_threads.py [--steps 6] [--json]

A step is the forward and backward pass of a small decoder (SmolLM2-135M's layers, 512 tokens). The
other work is a loop in a process of its own. Sides: GNU OpenMP's own waiting, and that of tspo,
whose threads give their core away soon (`tspo_cli/cpu_threads.py`). Each side runs twice, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.benchmarks.common import machine
from tspo_cli.cpu_threads import yield_waiting_cores

TOKENS, ROUNDS = 512, 2
OWN, OURS = "OpenMP's own", "tspo"


def seconds_of_steps(steps: int) -> list[float]:
    """Seconds of each step after the first, which gets new memory."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=8192,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=10,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model = LlamaForCausalLM(shape)
    tokens = torch.randint(8192, (1, TOKENS))
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model(tokens, labels=tokens).loss.backward()
        times.append(time.perf_counter() - start)
    return times[1:]


@contextmanager
def other_work() -> Iterator[None]:
    """A process that needs a core all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def environments() -> dict[str, dict[str, str]]:
    """The variables of a process of each side."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        os.environ.pop(name, None)
    own = dict(os.environ)
    yield_waiting_cores()
    return {OWN: own, OURS: dict(os.environ)}


def measured(environment: dict[str, str], steps: int) -> list[float]:
    """Seconds of the steps of a process with these variables."""
    command = [sys.executable, __file__, "--steps", str(steps), "--one-side"]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def main() -> None:
    """Parse the command line and print a row for each side, alone and beside other work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one-side", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_side:
        print(json.dumps(seconds_of_steps(options.steps)))
        return
    rows, sides = [], environments()
    for name, work in (("alone", nullcontext), ("beside other work", other_work)):
        times: dict[str, list[float]] = {OWN: [], OURS: []}
        for _ in range(ROUNDS):
            for side, seconds in times.items():
                with work():
                    seconds += measured(sides[side], options.steps)
        own, ours = (statistics.median(seconds) for seconds in times.values())
        rows.append({"when": name, OWN: own, OURS: ours, "ratio": ours / own})
        if not options.json:
            print(f"{name:18} {OWN} {own:.2f} s  {OURS} {ours:.2f} s  ratio {ours / own:.2f}")
    print(json.dumps({"machine": machine(), "rows": rows}) if options.json else machine())


if __name__ == "__main__":
    main()
