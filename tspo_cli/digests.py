"""SHA-256 digests of files, JSON values and sequences of text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tspo_cli.plain_files import open_plain

DIGITS = 12
"""Digits of a digest that a person reads."""


def file_digest(path: Path) -> str:
    """The digest of a file's bytes, 64 hexadecimal digits.

    Raises:
        InvalidInputError: it is no file (`open_plain`).
    """
    with open_plain(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """The digest of a JSON value, whatever the order of its keys and its indentation."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def text_digest(parts: Iterable[str]) -> str:
    """The first `DIGITS` digits of the digest of texts in their order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()[:DIGITS]
