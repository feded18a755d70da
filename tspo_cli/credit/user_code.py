"""A user's own function, from a Python file that the experiment names as FILE.py:function.

The file is run as Python code of the user's own choice, like any script; nothing is ever loaded
from a model or the hub.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.plain_files import is_plain, why_missing


def is_user_code(spec: str) -> bool:
    """True for FILE.py:function."""
    return ".py:" in spec


def load_function(spec: str, key: str) -> Callable[..., Any]:
    """The function that `spec` names; a relative path counts from the working directory. `key` is
    for messages.

    Raises:
        MissingResourceError: no such file.
        InvalidInputError: the file cannot be run, or has no such function.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not is_plain(path):
        raise MissingResourceError(
            f"{key}: {file}: {why_missing(path)}; write it as FILE.py:function"
        )
    module = _load(path.resolve(), path.stat().st_mtime_ns, key)
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidInputError(f"{key}: {file} has no function {name}")
    return function


def call_function(function: Callable[..., Any], spec: str, key: str, *arguments: Any) -> Any:
    """What the user's `function`, named by `spec`, returns for `arguments`. `key` is for messages.

    Raises:
        InvalidInputError: the function raised; with the line of the user's file that did.
    """
    try:
        return function(*arguments)
    except TspoError:
        raise
    except Exception as error:  # whatever the user's function raises is a problem of that file
        file = spec.rpartition(":")[0]
        own = Path(file).resolve()
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == own]
        where = f"{file}, line {lines[-1]}" if lines else file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidInputError(f"{key}: {where}: {reason}; fix: correct the function") from error


def finite_number(value: Any) -> float | None:
    """A number that a user's function returned, of Python, NumPy or a tensor; None for texts, NaN
    and whatever else is no finite number.
    """
    if isinstance(value, str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


@lru_cache(maxsize=64)
def _load(path: Path, changed: int, key: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"tspo_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{key}: {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except (
        Exception
    ) as error:  # whatever the user's file raises, at import, is a problem of that file
        raise InvalidInputError(
            f"{key}: {path} cannot be run: {type(error).__name__}: {error}"
        ) from error
    return module
