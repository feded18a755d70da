"""A digest that tells one model from another, and models that stay the same while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tspo_cli.config.sections.agent_defaults import AGENT_FILE, require_same_agent
from tspo_cli.digests import DIGITS, file_digest, text_digest
from tspo_cli.steady_folders import identity, steady

T = TypeVar("T")
_FORMER_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "vocab.json",
)
"""What earlier versions took for the model."""
_MODEL_FILES = (
    *_FORMER_FILES,
    "*.safetensors.index.json",
    "adapter_config.json",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "additional_chat_templates/*.jinja",
)
"""Weights, and all that decides which tokens a text becomes: a tokenizer without tokenizer.json is
made of the others, and one without tokens in tokenizer_config.json takes them from two more.
"""


def model_digest(model: str, revision: str = "") -> str:
    """Digest of the weights, configuration and tokenizer of a model directory. A hub model is its
    name, with `@` and the commit of its revision if one is named. The name of a served model is
    returned as it is.
    """
    return _digest(model, revision, _MODEL_FILES)


def former_digest(model: str, revision: str = "") -> str:
    """What `model_digest` was in earlier versions, which did not look at every file."""
    return _digest(model, revision, _FORMER_FILES)


def steady_model(model: str, read: Callable[[], T], looks: int = 3) -> T:
    """What `read` makes of a model directory whose files stay the same meanwhile: no configuration
    of one model with the weights of another. It is read `looks` times at most.

    Raises:
        InvalidInputError: the files changed again and again, or the experiment was read of another
            model that was here (`same_agent`).
    """

    def checked() -> T:
        found = read()
        require_same_agent(model)
        return found

    return steady(Path(model), checked, _state, looks) if model else read()


def _digest(model: str, revision: str, patterns: Iterable[str]) -> str:
    directory = Path(model)
    if not directory.is_dir():
        return f"{model}@{_commit(model, revision)[:DIGITS]}" if revision else model
    # Without a path it is no model of this directory.
    files = _files(directory, patterns) if model else []
    return text_digest(
        part
        for path in files
        for part in (path.relative_to(directory).as_posix(), file_digest(path))
    )


def _files(directory: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(
        {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    )


def _state(directory: Path) -> object:
    """What tells the files of a model from others at their places, without reading them."""
    found = []
    for path in _files(directory, (*_MODEL_FILES, AGENT_FILE)):
        try:
            state = path.stat()
        except FileNotFoundError:  # it vanished after it was listed
            continue
        found.append((path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))
    return identity(directory), found


def _commit(model: str, revision: str) -> str:
    """The commit that a branch or tag names in the local cache, else the revision itself."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision
