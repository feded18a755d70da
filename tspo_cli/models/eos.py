"""End-of-sequence tokens: a model's configuration, its generation defaults and its tokenizer may
each name other ones, and any of them ends a sequence.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.models.load_model import MAIN, model_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def eos_ids(*sources: Any) -> list[int]:
    """All `eos_token_id`s of configurations, generation defaults and tokenizers, ascending."""
    ids: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return sorted(ids)


def saved_eos_ids(model: str, tokenizer: PreTrainedTokenizerFast, revision: str = "") -> list[int]:
    """`eos_ids` of a model directory or hub name and its tokenizer, without loading weights.

    Raises:
        MissingResourceError, InvalidInputError: see `model_config`.
    """
    from transformers import GenerationConfig

    config = model_config(model, revision)
    generation: Any = None
    with suppress(OSError):  # many models have no generation_config.json
        generation = GenerationConfig.from_pretrained(
            model, local_files_only=Path(model).is_dir(), revision=revision or MAIN
        )
    return eos_ids(config, tokenizer, generation)
