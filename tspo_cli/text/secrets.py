"""Keys from the environment, and texts without them and without the secrets of URLs."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from tspo_cli.errors import InvalidInputError

HIDDEN = "***"
# (Paths have one slash where a URL had two. What follows a URL in a sentence is not part of it.)
_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}:/{1,2})[^\s/\"]*@", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&])([\w%.-]{1,120})=[^&#\s'\"]*[^&#\s'\":;,)]")
_SECRET_NAME = re.compile(
    r"token|key|secret|password|passwd|pwd|auth|signature|sig|credential|\b(?:pass|jwt|bearer)\b",
    re.IGNORECASE,
)
_ESCAPE = re.compile("%[0-9A-F]{2}")
_SHORTEST = 8
"""Characters of a key that is hidden in texts. A shorter one could be a word."""
_keys: set[str] = set()


def key_of(variable: str) -> str:
    """The key in an environment variable, "" where it is not set. Messages and records that quote
    it, as servers do, have *** in its place from now on.

    Raises:
        InvalidInputError: no printable ASCII, which no header of HTTP can hold.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidInputError(
            f"{variable}: expected a key of printable ASCII characters without spaces; set it anew"
        )
    hide(key)
    return key


def hide(key: str) -> None:
    """Let `without_secrets` replace this key, also as URLs, JSON and HTML write it."""
    if len(key) < _SHORTEST:
        return
    for written in (quote(key), quote(key, safe=""), quote_plus(key)):
        _keys.update((written, _ESCAPE.sub(lambda escape: escape.group().lower(), written)))
    _keys.update((key, json.dumps(key)[1:-1], html.escape(key)))


def hide_login(user: str, password: str) -> None:
    """Let `without_secrets` replace the user and password of a URL as HTTP sends them, and the
    password unless it could be a word.
    """
    hide(base64.b64encode(f"{user}:{password}".encode()).decode())
    if not password.isalpha():
        hide(password)


def hide_parameters(parameters: Iterable[tuple[str, str]]) -> None:
    """Let `without_secrets` replace the values of those parameters of a URL that are secrets."""
    for name, value in parameters:
        if _SECRET_NAME.search(name):
            hide(value)


def without_keys(text: str) -> str:
    """`text` with *** for the keys that `hide` was told, the longest first: one may begin with
    another.
    """
    for key in sorted(_keys, key=len, reverse=True):
        text = text.replace(key, HIDDEN)
    return text


def without_secrets(text: str) -> str:
    """`text` with *** for the user and password of every URL (`http://user:password@host`), for the
    value of every parameter that is called a token, key, password or the like, and for the keys
    that `hide` was told.
    """
    text = without_keys(text)
    if ":/" not in text:
        return text
    return _PARAMETER.sub(_hidden, _LOGIN.sub(rf"\1{HIDDEN}@", text))


def _hidden(parameter: re.Match[str]) -> str:
    sign, name = parameter.groups()
    is_secret = _SECRET_NAME.search(unquote(name))
    return f"{sign}{name}={HIDDEN}" if is_secret else parameter.group()


def file_mode(text: str) -> int:
    """The permissions of a file with this text: its owner's alone where a URL has a secret."""
    return 0o666 if without_secrets(text) == text else 0o600


def values_without_secrets(value: Any) -> Any:
    """Nested lists and tables with every text in them `without_secrets`."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: values_without_secrets(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [values_without_secrets(part) for part in value]
    return value
