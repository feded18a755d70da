"""What several benchmarks use: a synthetic corpus and encoder, a process with its time and peak
memory, and the name of the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tspo_cli.console import counted

VOCABULARY = 200_000


def demo_settings(demo: Path, options: argparse.Namespace, seed: int) -> dict[str, object]:
    """Settings of a training from the warm start in `demo`, a folder of `tspo demo`: `options` has
    steps, lr and limit, the number of test questions that the last step answers.
    """
    return {
        "model.path": demo / "warmstart" / "model",
        "retriever.index": demo / "index",
        "data.train": json.dumps([str(demo / "world" / "train.jsonl")]),
        "eval.data": json.dumps([str(demo / "world" / "test.jsonl")]),
        "eval.every": 0,
        "eval.at_start": "false",
        "eval.limit": options.limit,
        "checkpoint.every": 0,
        "train.steps": options.steps,
        "optimizer.lr": options.lr,
        "seed": seed,
    }


def make_corpus(path: Path, passages: int, words: int) -> None:
    """Write a JSONL corpus: `passages` passages of about `words` invented words each, whose
    frequencies follow Zipf's law.
    """
    random = np.random.default_rng(0)
    with open(path, "w") as handle:
        for start in range(0, passages, 10_000):
            count = min(10_000, passages - start)
            lengths = random.integers(words // 2, words * 3 // 2 + 1, count)
            word_numbers = random.zipf(1.2, int(lengths.sum())) % VOCABULARY
            ends = np.cumsum(lengths)
            for row, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
                text = " ".join(f"w{word:x}" for word in word_numbers[end - length : end])
                # As in most corpora, an id is not the number of its line.
                handle.write(
                    json.dumps({"id": f"doc{start + row}", "contents": f'"T{start + row}"\n{text}'})
                    + "\n"
                )


def make_encoder(folder: Path, hidden: int = 32, layers: int = 1, heads: int = 2) -> str:
    """Write a BERT with random weights and return its directory.

    Its tokens are pieces of one to three characters, which cover the invented words.
    """
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    hexadecimal = [
        "".join(part)
        for length in (2, 3)
        for part in itertools.product(letters[:16], repeat=length)
    ]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", '"', *letters]
    words += [f"##{part}" for part in (*letters, *hexadecimal)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True)
class Finished:
    """A Python process that has ended: its stdout, wall seconds, CPU seconds, and its peak of
    anonymous memory in MB.
    """

    output: str
    seconds: float
    cpu_s: float
    peak_mb: float


def run_python(arguments: list[str]) -> Finished:
    """Run this Python with `arguments` and wait for it.

    Memory is the resident size without pages of mapped files (the kernel's RssAnon), sampled every
    10 ms. A failure ends the benchmark.
    """
    started, usage_before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous_kb(process.pid))
        time.sleep(0.01)
    seconds, usage = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(f"{arguments}: ended with exit code {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime - usage_before.ru_utime - usage_before.ru_stime
    return Finished(process.stdout.read(), seconds, cpu, peak / 1000)


def _anonymous_kb(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def machine() -> str:
    """Processor, cores and threads."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    return (
        f"{name}, {counted(os.cpu_count() or 1, 'core')}, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    )
