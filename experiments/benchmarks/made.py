"""What the retrieval benchmarks share: a made corpus and encoder, the peak memory of a process, the
machine's name.
"""

from __future__ import annotations

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

VOCABULARY = 200_000


def make_corpus(path: Path, passages: int, words: int) -> None:
    """A JSONL corpus of `passages` passages of about `words` invented words with the frequencies of
    Zipf's law.
    """
    random = np.random.default_rng(0)
    with open(path, "w") as handle:
        for start in range(0, passages, 10_000):
            count = min(10_000, passages - start)
            lengths = random.integers(words // 2, words * 3 // 2 + 1, count)
            drawn = random.zipf(1.2, int(lengths.sum())) % VOCABULARY
            ends = np.cumsum(lengths)
            for row, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
                text = " ".join(f"w{word:x}" for word in drawn[end - length : end])
                # Ids as most corpora have them: not the number of the line.
                handle.write(
                    json.dumps({"id": f"doc{start + row}", "contents": f'"T{start + row}"\n{text}'})
                    + "\n"
                )


def make_encoder(folder: Path, hidden: int = 32, layers: int = 1, heads: int = 2) -> str:
    """A BERT of random weights, whose tokens are up to three characters of the made words; its
    directory.
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
    """What a Python process printed, its wall and CPU seconds, and its peak of anonymous memory in
    MB.
    """

    output: str
    seconds: float
    cpu_s: float
    peak_mb: float


def run_python(arguments: list[str]) -> Finished:
    """Run this Python with `arguments` to its end.

    Memory is the resident size without pages of mapped files (the kernel's RssAnon), sampled every
    10 ms.
    """
    began, spent = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous_kb(process.pid))
        time.sleep(0.01)
    seconds, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(f"{arguments}: ended with exit code {process.returncode}")
    cpu = now.ru_utime + now.ru_stime - spent.ru_utime - spent.ru_stime
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
        f"{name}, {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    )
