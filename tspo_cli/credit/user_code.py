"""A user's own function, from a Python file that the experiment names as FILE.py:function.

The file is run as Python code of the user's own choice, like any script; nothing is ever loaded
from a model or the hub. A process runs it once: what is written into it later does not change a
training that has begun. What it prints goes to stderr, for stdout has the results.
"""

from __future__ import annotations

import hashlib
import math
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.plain_files import is_plain, read_plain, why_missing

_one_at_a_time = threading.RLock()
"""Who holds it has stdout redirected, which the threads of a process share."""

_SIGNALS = 128
"""Exit codes from here on are those of a command that a signal stops."""


class _Loader(SourceFileLoader):
    """Runs a source that was read, never what Python compiled of an earlier one."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.source, self.path)
        return code


_modules: dict[Path, tuple[ModuleType, str]] = {}
"""Each file's module, and the digest of what was run."""


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
    own = Path(file).resolve()
    if own not in _modules:
        if not is_plain(Path(file)):
            raise MissingResourceError(
                f"{key}: {file}: {why_missing(Path(file))}; write it as FILE.py:function"
            )
        source = read_plain(own)
        with _blaming(f"{key}: {file} cannot be run", own, " (line {})"):
            _modules[own] = _run(own, source), hashlib.sha256(source).hexdigest()
    module, _ = _modules[own]
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidInputError(f"{key}: {file} has no function {name}")
    return function


def code_digest(spec: str, key: str) -> str:
    """The SHA-256 digest of the file that `load_function` ran for `spec`, whatever stands there
    now. Raises as that.
    """
    load_function(spec, key)
    return _modules[Path(spec.rpartition(":")[0]).resolve()][1]


def call_function(function: Callable[..., Any], spec: str, key: str, *arguments: Any) -> Any:
    """What the user's `function`, named by `spec`, returns for `arguments`. `key` is for messages.

    Raises:
        InvalidInputError: the function raised; with the line of the user's file that did.
    """
    file = spec.rpartition(":")[0]
    with _blaming(f"{key}: {file}", Path(file).resolve(), ", line {}", "; fix: correct the file"):
        return function(*arguments)


@contextmanager
def _blaming(what: str, own: Path, place: str, advice: str = "") -> Iterator[None]:
    """Code of the user's file `own` runs. Whatever it raises is a problem of that file, also if it
    asks Python to exit; a signal that stops this command is not its doing. `what`, the `place` of
    the line and `advice` make the message.
    """
    try:
        with _one_at_a_time, redirect_stdout(sys.stderr):
            yield
    except (TspoError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code >= _SIGNALS:
            raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == own]
        at = place.format(lines[-1]) if lines else ""
        parts = (f"{what}{at}", _said(error)) if advice else (what, f"{_said(error)}{at}")
        raise InvalidInputError(": ".join(parts) + advice) from error


def _said(error: BaseException) -> str:
    """An error of the user's code on one line; its text is the user's code, too."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # as above
        return kind
    if isinstance(error, SystemExit):
        return f"{kind} ({text})" if text else kind
    return f"{kind}: {text}" if text else kind


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


def _run(path: Path, source: bytes) -> ModuleType:
    name = f"tspo_user_{path.stem}"
    spec = spec_from_loader(name, _Loader(name, path, source))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
