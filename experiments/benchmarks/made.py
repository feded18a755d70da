"""What the retrieval benchmarks make for themselves: a corpus, an encoder; and how they name the machine."""

from __future__ import annotations

import itertools
import json
import os
import platform
from pathlib import Path

import numpy as np

VOCABULARY = 200_000


def make_corpus(path: Path, passages: int, words: int) -> None:
    """A JSONL corpus of `passages` passages of about `words` invented words with the frequencies of Zipf's law."""
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
                handle.write(json.dumps({"id": f"doc{start + row}", "contents": f'"T{start + row}"\n{text}'}) + "\n")


def make_encoder(folder: Path, hidden: int = 32, layers: int = 1) -> str:
    """A BERT of random weights, whose tokens are up to three characters of the made words; its directory."""
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    hexadecimal = ["".join(part) for length in (2, 3) for part in itertools.product(letters[:16], repeat=length)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", '"', *letters]
    words += [f"##{part}" for part in (*letters, *hexadecimal)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=4 * hidden, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def machine() -> str:
    """Processor, cores and threads."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
