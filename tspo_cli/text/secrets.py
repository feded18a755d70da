"""Messages and records without the secrets that URLs carry."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://)[^\s/'\"]*@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"([?&][\w-]{0,40}(?:token|key|secret|password|passwd|pwd|auth|signature|sig|credential)"
    r"[\w-]{0,40}=)[^&#\s'\"]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """`text` with *** for the user and password of every URL (`http://user:password@host`), and for
    the value of every parameter that is called a token, key, password or the like.
    """
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\1{HIDDEN}", _LOGIN.sub(rf"\1{HIDDEN}@", text))


def values_without_secrets(value: Any) -> Any:
    """Nested lists and tables with every text in them `without_secrets`."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: values_without_secrets(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [values_without_secrets(part) for part in value]
    return value
