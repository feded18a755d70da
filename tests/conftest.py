"""Defaults for every test: one thread, nothing from the network, CPU; real data where somebody put it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before torch and the hub libraries are imported; processes that tests start inherit them.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "NO_COLOR": "1",
    "COLUMNS": "120",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(_name, _value)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real benchmark samples that TSPO_REAL_DATA names (or `shared/data` beside the checkout)."""
    folder = Path(os.environ.get("TSPO_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set TSPO_REAL_DATA")
    return folder
