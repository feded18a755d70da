"""A digest that tells one model from another."""

from __future__ import annotations

from pathlib import Path

from tspo_cli.digests import DIGITS, file_digest, text_digest

_MODEL_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "vocab.json",
)


def model_digest(model: str, revision: str = "") -> str:
    """Digest of the weights, configuration and tokenizer of a model directory. A hub model is its
    name, with `@` and the commit of its revision if one is named. The name of a served model is
    returned as it is.
    """
    directory = Path(model)
    if not directory.is_dir():
        return f"{model}@{_commit(model, revision)[:DIGITS]}" if revision else model
    patterns = _MODEL_FILES if model else ()  # without a path it is no model of this directory
    files = sorted(
        {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    )
    return text_digest(part for path in files for part in (path.name, file_digest(path)))


def _commit(model: str, revision: str) -> str:
    """The commit that a branch or tag names in the local cache, else the revision itself."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision
