"""The files of a model directory, before transformers reads them: it passes over what is no file
and a damaged generation_config.json, and speaks of its own code where a file is no JSON object.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError, advising
from tspo_cli.plain_files import LARGEST, refuse_pointer, require_plain, why_missing
from tspo_cli.runs import read_json
from tspo_cli.text.repeated_keys import RepeatedKeyError, once

GENERATION = "generation_config.json"
_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"
_OBJECTS = (_CONFIG, _TOKENIZER, "special_tokens_map.json", "tokenizer.json")
_WITH_WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")
TOKENIZER_FILES = (_TOKENIZER, *_WITH_WORDS)
_READ = (".json", ".jinja", ".safetensors", ".txt", ".model")
"""Endings of the files that transformers reads."""
AGAIN = "copy the file from the original model again"


def check_files(directory: Path) -> None:
    """Refuse what stands in the place of a file of a model or tokenizer and is none: transformers
    loads the model as if it was not there. What is missing is fine.

    Raises:
        InvalidInputError: a directory, a pipe, a device, a link to nothing, a file that this user
            may not read, a pointer of Git LFS, or a text of more than 1 GiB.
    """
    for path in sorted(directory.iterdir()):
        if path.suffix in _READ:
            require_plain(path, AGAIN)
            if not path.exists():
                raise InvalidInputError(f"{path}: {why_missing(path)}; {AGAIN}")
            refuse_pointer(path)
            size = path.stat().st_size
            if size > LARGEST and path.suffix != ".safetensors":
                raise InvalidInputError(
                    f"{path}: expected at most {LARGEST:,} bytes, found {size:,}; {AGAIN}"
                )


def check_json_files(directory: Path) -> None:
    """Refuse files of a model or tokenizer that are no JSON objects, and values that transformers
    takes as they are and fails of later: a type of model that is no name, a longest text that is no
    number, inputs that are no names. What is missing is fine. Large files are not read: an object
    begins with a brace.

    Raises:
        InvalidInputError: the file that is none, or the key.
    """
    for path in (directory / name for name in _OBJECTS):
        if path.is_file():
            with open(path, "rb") as handle:
                start = handle.read(1000).lstrip()
            if not start.startswith(b"{"):
                found = ascii(start[:20].decode("ascii", "replace"))
                raise InvalidInputError(
                    f"{path}: expected a JSON object, which begins with {{, found {found}; {AGAIN}"
                )
    for name, key, expected, is_right in _VALUES:
        path = directory / name
        with advising(AGAIN):
            record = read_json(path) if path.is_file() else {}
        if key in record and not is_right(record[key]):
            found = json.dumps(record[key])[:20]
            raise InvalidInputError(f"{path}: {key}: expected {expected}, found {found}; {AGAIN}")


def check_tokenizer_keys(directory: Path) -> None:
    """Refuse files of a tokenizer with a key twice, such as a word with two ids: which of the two
    counts, is not said. What is missing is fine.

    Raises:
        InvalidInputError: the file and the key.
    """
    for path in (directory / name for name in _WITH_WORDS):
        if path.is_file():
            try:
                json.loads(path.read_bytes(), object_pairs_hook=once)
            except RepeatedKeyError as error:
                raise InvalidInputError(f"{path}: {_twice(error)}; {AGAIN}") from None
            except (ValueError, RecursionError):
                pass  # the library says what is no JSON


def check_generation_file(directory: Path) -> None:
    """Refuse a damaged generation_config.json: its end-of-sequence tokens would be lost in silence.
    A directory without the file is fine.

    Raises:
        InvalidInputError: the file is no JSON object, its `eos_token_id` is no token id, or another
            value is such that transformers reads nothing of the file.
    """
    path = directory / GENERATION
    if not path.is_file():
        return
    try:
        record = json.loads(path.read_bytes(), object_pairs_hook=once)
    except RepeatedKeyError as error:
        problem = _twice(error)
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot be read as JSON ({str(error) or type(error).__name__})"
    else:
        problem = _problem(record) or _refused_by_library(record)
    if problem:
        raise InvalidInputError(
            f"{path}: {problem}; {AGAIN}, or remove it if the model's config.json says how a "
            "reply ends"
        )


def _refused_by_library(record: dict[str, Any]) -> str:
    from transformers import GenerationConfig

    try:
        GenerationConfig.from_dict(record)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        return f"expected options of a generation, but transformers refuses one ({reason})"
    return ""


def _twice(error: RepeatedKeyError) -> str:
    return f'expected each key once, got "{error}" twice'


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _is_length(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and value > 0)


def _are_names(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_name, value)))


def _are_layers(value: Any) -> bool:
    return value is None or (type(value) is int and value <= _MOST_LAYERS)


_MOST_LAYERS = 10_000
"""transformers makes a list of the layers when it reads the configuration."""
_VALUES = (
    (_CONFIG, "model_type", "a name such as qwen2", _is_name),
    (_CONFIG, "num_hidden_layers", f"at most {_MOST_LAYERS:,} layers", _are_layers),
    (_TOKENIZER, "model_max_length", "a number of tokens", _is_length),
    (_TOKENIZER, "model_input_names", "a list of names", _are_names),
)


def _problem(record: Any) -> str:
    if not isinstance(record, dict):
        return "expected a JSON object"
    eos = record.get("eos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(type(token) is int and 0 <= token < 2**31 for token in ids):
        return f"eos_token_id: expected a token id or a list of them, got {json.dumps(eos):.60}"
    return ""
