"""A model directory's generation_config.json, which transformers ignores where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError

GENERATION = "generation_config.json"


def check_generation_file(directory: Path) -> None:
    """Refuse a damaged generation_config.json: its end-of-sequence tokens would be lost in silence.
    A directory without the file is fine.

    Raises:
        InvalidInputError: the file is no JSON object, or its `eos_token_id` is no token id.
    """
    path = directory / GENERATION
    if not path.is_file():
        return
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot be read as JSON ({str(error) or type(error).__name__})"
    else:
        problem = _problem(record)
    if problem:
        raise InvalidInputError(
            f"{path}: {problem}; copy the file from the original model again, or remove it if the "
            "model's config.json says how a reply ends"
        )


def _problem(record: Any) -> str:
    if not isinstance(record, dict):
        return "expected a JSON object"
    eos = record.get("eos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(type(token) is int and token >= 0 for token in ids):
        return f"eos_token_id: expected a token id or a list of them, got {json.dumps(eos):.60}"
    return ""
