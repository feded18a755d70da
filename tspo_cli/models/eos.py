"""End-of-sequence tokens: a model's configuration, its generation defaults and its tokenizer may
each name other ones, and any of them ends a sequence.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def eos_ids(*sources: Any) -> list[int]:
    """All `eos_token_id`s of configurations, generation defaults and tokenizers, ascending."""
    ids: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return sorted(ids)


def saved_eos_ids(model: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """`eos_ids` of a model directory or hub name and its tokenizer, without loading weights."""
    from transformers import AutoConfig, GenerationConfig

    sources: list[Any] = [AutoConfig.from_pretrained(model), tokenizer]
    if (Path(model) / "generation_config.json").is_file() or not Path(model).is_dir():
        sources.append(GenerationConfig.from_pretrained(model))
    return eos_ids(*sources)
