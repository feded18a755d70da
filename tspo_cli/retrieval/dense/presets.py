"""Prefixes and pooling of families of encoders, as in their model cards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

PRESETS: dict[str, dict[str, object]] = {
    # Wang et al. 2022 (E5): asymmetric prefixes, mean pooling, cosine.
    "e5": {
        "query_prefix": "query: ",
        "passage_prefix": "passage: ",
        "pooling": "mean",
        "normalize": True,
    },
    # Xiao et al. 2023 (C-Pack): an instruction on English queries only, the first token, cosine.
    "bge": {
        "query_prefix": "Represent this sentence for searching relevant passages: ",
        "passage_prefix": "",
        "pooling": "cls",
        "normalize": True,
    },
    "minilm": {"query_prefix": "", "passage_prefix": "", "pooling": "mean", "normalize": True},
}


def resolve_preset(encoder: str, given: Mapping[str, object]) -> dict[str, object]:
    """The settings of the preset of `encoder`, overridden by `given`; `preset` has its name."""
    name = str(given.get("preset", "auto"))
    if name == "auto":
        name = preset_of(encoder)
    return {**PRESETS.get(name, {}), **given, "preset": name}


def preset_of(encoder: str) -> str:
    """The preset that fits an encoder's name. none: only the encoder's own files count."""
    words = re.split(r"[^a-z0-9]+", Path(encoder).name.lower())
    return next((name for name in ("e5", "bge") if name in words), "none")
