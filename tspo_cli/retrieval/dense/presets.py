"""Prefixes and pooling of an encoder: its own, those of its family's model cards, or given ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tspo_cli.console import say
from tspo_cli.retrieval.dense.own_prompts import own_settings

PRESETS: dict[str, dict[str, object]] = {
    # Wang et al. 2022 (E5): asymmetric prefixes, mean pooling, cosine.
    "e5": {
        "query_prefix": "query: ",
        "passage_prefix": "passage: ",
        "pooling": "mean",
        "normalize": True,
    },
    # Wang et al. 2024 (E5 that follows instructions): one before queries, pooling as its files say.
    "e5-instruct": {
        "query_prefix": "Instruct: Given a web search query, retrieve relevant passages that "
        "answer the query\nQuery: ",
        "passage_prefix": "",
        "normalize": True,
    },
    # Xiao et al. 2023 (C-Pack): an instruction on English queries only, the first token, cosine.
    "bge": {
        "query_prefix": "Represent this sentence for searching relevant passages: ",
        "passage_prefix": "",
        "pooling": "cls",
        "normalize": True,
    },
    "bge-zh": {
        "query_prefix": "为这个句子生成表示以用于检索相关文章：",
        "passage_prefix": "",
        "pooling": "cls",
        "normalize": True,
    },
    # Chen et al. 2024 (M3): no instruction.
    "bge-m3": {"query_prefix": "", "passage_prefix": "", "pooling": "cls", "normalize": True},
    "minilm": {"query_prefix": "", "passage_prefix": "", "pooling": "mean", "normalize": True},
}


_FAMILIES: dict[str, tuple[set[str], set[str]]] = {
    "e5-instruct": ({"e5", "instruct"}, set()),
    "e5": ({"e5"}, {"mistral"}),
    "bge-m3": ({"bge", "m3"}, {"unsupervised", "retromae"}),
    "bge-zh": ({"bge", "zh"}, set()),
    # The others of this name have other instructions, which their own files state.
    "bge": ({"bge"}, {"m3", "icl", "gemma2", "multilingual", "code", "vl"}),
}
"""Words that the name of an encoder has, and words that it does not have."""


_BEFORE = {"query_prefix": "queries", "passage_prefix": "passages"}


def resolve_preset(
    encoder: str, given: Mapping[str, object], *, said: Iterable[str] = tuple(_BEFORE)
) -> dict[str, object]:
    """The settings of `encoder`; `preset` has the name of its preset. Says in one line what stands
    before queries and passages, as far as `said` names them.

    `given` comes first, a preset that is named there included. Then comes what the encoder's own
    files state, then the preset that its name suggests.

    Raises:
        MissingResourceError, InvalidInputError: as `own_settings`.
    """
    name = str(given.get("preset", "auto"))
    fitting = preset_of(encoder) if name == "auto" else name
    own, preset = own_settings(encoder, given), PRESETS.get(fitting, {})
    layers = [("its own", own), (f"preset {fitting}", preset)]
    if name == "auto":
        layers.reverse()
    layers.append(("given", dict(given)))
    resolved: dict[str, object] = {}
    for _, layer in layers:
        resolved |= layer
    if encoder:
        parts = [_part(role, layers) for role in said]
        dot = ["vectors compared by dot product (its own)"] if own.get("normalize") is False else []
        say(f"encoder {Path(encoder).name}: {', '.join(parts + dot)}")
    return {**resolved, "preset": fitting}


def _part(role: str, layers: Sequence[tuple[str, dict[str, object]]]) -> str:
    """`"query: " before queries (preset e5)`, out of the last of `layers` that has this prefix."""
    found = [(name, layer[role]) for name, layer in layers if role in layer]
    source, text = found[-1] if found else ("none known", "")
    quoted = json.dumps(text, ensure_ascii=False) if text else "nothing"
    return f"{quoted} before {_BEFORE[role]} ({source})"


def preset_of(encoder: str) -> str:
    """The preset that fits an encoder's name. none: only the encoder's own files count."""
    words = set(re.split(r"[^a-z0-9]+", Path(encoder).name.lower()))
    fits = (name for name, (has, lacks) in _FAMILIES.items() if has <= words and not lacks & words)
    return next(fits, "none")
