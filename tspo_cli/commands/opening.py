"""What a command says before it opens data, passages and a model, which takes long where the model
is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tspo_cli.console import byte_size, say, say_meanwhile
from tspo_cli.not_a_run import model_directory

_LARGE = 100 * 2**20
"""Bytes of weights that take seconds to open."""
_MOST_NAMES = 3


def say_what_is_opened(model: str, others: Sequence[str]) -> None:
    """Name what is opened: a model, or a run with one, and `others`, of which empty ones are left
    out. A person who waits is told of everything, a log of large models: in the log of a command
    that fails at once, its error stays the only line.
    """
    named = [name for name in others if name]
    names = [*named[:_MOST_NAMES], *(["..."] if len(named) > _MOST_NAMES else [])]
    size = _size(model_directory(model)) if model else 0
    if model:
        names.append(f"{model} ({byte_size(size)})" if size else model)
    tell = say if size >= _LARGE else say_meanwhile
    tell(f"opening {', '.join(names) or 'a new policy'}")


def _size(folder: Path) -> int:
    """Bytes of weights in a directory; 0 for a model of the hub."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
