"""The tokens that end a sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def eos_ids_of(*sources: Any) -> list[int]:
    """The ids that `sources` (model, generation or tokenizer configurations) name as
    `eos_token_id`, in ascending order.
    """
    ids: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return sorted(ids)


def eos_ids_of_path(model: str, tokenizer: Any) -> list[int]:
    """`eos_ids_of` a model directory or hub name, without loading its weights."""
    from transformers import AutoConfig, GenerationConfig

    sources = [AutoConfig.from_pretrained(model), tokenizer]
    if (Path(model) / "generation_config.json").is_file() or not Path(model).is_dir():
        sources.append(GenerationConfig.from_pretrained(model))
    return eos_ids_of(*sources)
