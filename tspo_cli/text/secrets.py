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
# What follows a URL in a sentence or in JSON is not part of it: a space, or a quotation mark before
# a space or a mark. Paths have one slash where a URL had two.
_SCHEME = r"\b[a-z][a-z0-9+.-]{1,20}:[/\\]{1,3}"
_IN_WORD = r"[\"'](?![\s,:;)\]}\"']|$)"
_PASSWORD = r"(?!\d*(?:[/?#,:;.)\s\"']|$))[^\s@][^@]{0,200}@(?:[^\s/@]{1,200}@)*"
_LOGINS = (
    # As URLs have it, without a slash.
    re.compile(rf"({_SCHEME})(?:[^\s/\"]|{_IN_WORD})*@", re.IGNORECASE),
    # A password with a slash or a space, which no URL may have: no port follows the colon.
    re.compile(rf"({_SCHEME})[^\s/:@,\"\[]{{0,200}}:{_PASSWORD}", re.IGNORECASE),
    # The scheme was forgotten: user:password@host, of which the host has a dot or a port.
    re.compile(
        r"()(?<![\w.%+~-])[\w.%+~-]{1,64}:(?![/\\])[^\s@\"]{1,200}@"
        r"(?=[\w-]{1,63}[.:]\w|localhost\b|\[)"
    ),
)
_PARAMETER = re.compile(r"(?<=\S)[?&;#]([\w%.\[\]-]{1,120})=")
_VALUE = re.compile(r"(?:[^&#\s'\"]|[\"']+(?![\s,:;)\]}\"']|$))*[^&#\s'\":;,)]")
_SECRET_NAME = re.compile(
    r"token|key|secret|password|passwd|pwd|auth|signature|sig|credential|\b(?:pass|jwt|bearer)\b",
    re.IGNORECASE,
)
_ESCAPE = re.compile("%[0-9A-F]{2}")
_SHORTEST = 8
"""Characters of a key that is hidden in texts. A shorter one could be a word."""
_keys: set[str] = set()
EXPECTED_VARIABLE = (
    "expected the name of the environment variable that has the key, such as OPENAI_API_KEY, and "
    "not the key, which every record would show"
)


def is_variable(name: str) -> bool:
    """Whether an environment variable can have this name."""
    return name.isascii() and name.isidentifier()


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
    if "@" in text:
        for login in _LOGINS:
            text = login.sub(rf"\1{HIDDEN}@", text)
    return _without_parameters(text) if "=" in text else text


def _without_parameters(text: str) -> str:
    """`text` with *** for the values of those parameters of URLs that are secrets."""
    kept, end = [], 0
    for parameter in _PARAMETER.finditer(text):
        if parameter.start() < end or not _SECRET_NAME.search(unquote(parameter[1])):
            continue
        if value := _VALUE.match(text, parameter.end()):
            kept += [text[end : parameter.end()], HIDDEN]
            end = value.end()
    return "".join((*kept, text[end:]))


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
