"""The cost of a turn: rollout time at 1, 2, 4 and 8 turns, with a kept KV cache and without.

    python experiments/benchmarks/turn_cost.py    # transformers engine
    .venv-vllm/bin/python experiments/benchmarks/turn_cost.py --vllm --svg FILE.svg   # and vLLM

One process, one thread, policies of two layers with random weights: the tiny one and a wider one.
Every turn reads `--feedback` tokens (the first turn as its prompt) and samples `--action` tokens.
Turns differ only in the history before them. If a turn costs only its own tokens, eight turns cost
eight times as much as one. The rest is mostly attention over the kept history, whose share is
largest in narrow models. "kept" is the engine as training uses it. "again" is the same engine, but
every session is released between turns, so that the whole history is encoded again. Times are CPU
seconds of the process (other work on the machine does not count), the minimum over the repeats.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.rollout_speed import EOS, VOCABULARY, tiny_policy, word_tokenizer
from tspo_cli.console import counted
from tspo_cli.rollout.engines.engine_protocol import Engine, GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine

TURNS = (1, 2, 4, 8)
Forget = Callable[[Sequence[int]], None]


def rollout(
    engine: Engine, turns: int, options: argparse.Namespace, forget: Forget | None
) -> float:
    """CPU seconds for `turns` turns of a batch. `forget` is called between turns and drops the
    sessions' KV cache.
    """
    rng = np.random.default_rng(0)
    sessions = range(options.batch)
    histories = [rng.integers(0, EOS, options.feedback).tolist() for _ in sessions]
    sampling = Sampling(max_new_tokens=options.action)
    started = time.process_time()
    for turn in range(turns):
        for session in sessions:
            request = GenerationRequest(
                session, tuple(histories[session]), sampling, seed=session + 1000 * turn
            )
            engine.submit(request)
        unfinished = options.batch
        while unfinished:
            for completion in engine.step():
                feedback = rng.integers(0, EOS, options.feedback).tolist()
                histories[completion.session] += [*completion.token_ids, *feedback]
                unfinished -= 1
        if forget is not None:
            forget(sessions)
    seconds = time.process_time() - started
    for session in sessions:
        engine.release(session)
    return seconds


def transformers_engine(options: argparse.Namespace, hidden: int) -> tuple[Engine, Forget]:
    """The slot-cache engine, and a function that releases its sessions."""
    engine = TransformersEngine(
        tiny_policy(hidden, 2),
        word_tokenizer(),
        batch_size=options.batch,
        max_context=longest_history(options),
    )

    def forget(sessions: Sequence[int]) -> None:
        for session in sessions:
            engine.release(session)

    return engine, forget


def vllm_engine(options: argparse.Namespace, hidden: int, folder: Path) -> tuple[Engine, Forget]:
    """vLLM with its prefix cache, and a function that empties the cache."""
    from tspo_cli.config.schema import VllmConfig
    from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine

    model = tiny_policy(hidden, 2)
    model.config.dtype = "float32"
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    engine = VllmEngine(
        str(folder),
        VllmConfig(),
        dtype="float32",
        eos_ids=[],
        batch_size=options.batch,
        max_context=longest_history(options),
        seed=0,
    )
    return engine, lambda sessions: engine.engine.reset_prefix_cache()


def longest_history(options: argparse.Namespace) -> int:
    """The length of the longest history."""
    return max(TURNS) * (options.action + options.feedback)


def measure(
    engine: Engine, forget: Forget, options: argparse.Namespace
) -> dict[str, dict[int, float]]:
    """The smallest CPU seconds by mode and number of turns. The modes alternate."""
    modes: dict[str, Forget | None] = {"kept": None, "again": forget}
    best: dict[str, dict[int, float]] = {name: {} for name in modes}
    rollout(engine, 2, options, None)  # the first calls allocate
    for _ in range(options.repeats):
        for turns in TURNS:
            for name, between_turns in modes.items():
                forget(range(options.batch))
                seconds = rollout(engine, turns, options, between_turns)
                best[name][turns] = min(seconds, best[name].get(turns, seconds))
    return best


def draw(results: dict[str, dict[str, dict[int, float]]], path: Path) -> None:
    """Draw time over turns, one panel for each engine."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tspo"
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(3.4 * len(results), 3.2), squeeze=False)
    for panel, (name, modes) in zip(panels[0], results.items(), strict=True):
        for mode, label, style in (
            ("kept", "as tspo does", "o-"),
            ("again", "whole history again", "s--"),
        ):
            panel.plot(list(modes[mode]), list(modes[mode].values()), style, label=label)
        panel.set_title(name)
        panel.set_xlabel("turns")
        panel.set_xticks(TURNS)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("CPU seconds per batch")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm", action="store_true", help="measure vLLM too")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--action", type=int, default=16)
    parser.add_argument("--feedback", type=int, default=100)
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[96, 768], help="widths of the policies"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--svg", type=Path, help="draw the figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    torch.set_num_threads(1)
    results = {}
    for hidden in options.hidden:
        results[f"transformers, width {hidden}"] = measure(
            *transformers_engine(options, hidden), options
        )
        if options.vllm:
            with tempfile.TemporaryDirectory() as folder:
                results[f"vLLM, width {hidden}"] = measure(
                    *vllm_engine(options, hidden, Path(folder)), options
                )
    if options.svg:
        draw(results, options.svg)
    settings: dict[str, Any] = {
        key: value for key, value in vars(options).items() if key not in ("json", "svg")
    }
    if options.json:
        print(json.dumps({"settings": settings, "vocabulary": VOCABULARY, "cpu_seconds": results}))
        return
    print(
        f"batch {options.batch}, {options.feedback} read and "
        f"{counted(options.action, 'sampled token')} a turn;"
    )
    print(
        f"CPU seconds, smallest of {options.repeats}; "
        f"{platform.processor() or platform.machine()}, one thread"
    )
    print(
        f"{'engine':<26}{'history':<8}"
        + "".join(f"{turns:>9}" for turns in TURNS)
        + f"{'8 : 1':>9}"
    )
    for engine, modes in results.items():
        for mode, seconds in modes.items():
            row = "".join(f"{seconds[turns]:>9.3f}" for turns in TURNS)
            print(f"{engine:<26}{mode:<8}{row}{seconds[TURNS[-1]] / seconds[TURNS[0]]:>9.1f}")


if __name__ == "__main__":
    main()
