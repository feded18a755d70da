"""The bearer tokens of servers: of retrievers, and of engines that training runs control.

A token comes from a file or the environment, never from a command line or a configuration: other
users can see those, and every run keeps them.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import open_plain, why_missing
from tspo_cli.text.secrets import hide

RETRIEVER_TOKEN = "TSPO_RETRIEVER_TOKEN"
ENGINE_TOKEN = "TSPO_ENGINE_TOKEN"
_SHORTEST = 16
_LONGEST = 8_192
"""Bytes of a file that are read. Servers take headers of a few kilobytes."""


def read_token(variable: str, file: str = "") -> str:
    """The token in `file`, or else in the environment variable `variable`, or else "".

    Raises:
        MissingResourceError: no such file.
        InvalidInputError: it cannot be read; or the token is shorter than 16 characters, or not
            printable ASCII without spaces.
    """
    if file:
        try:
            with open_plain(Path(file)) as handle:
                token = handle.read(_LONGEST).decode().strip()
        except FileNotFoundError:
            raise MissingResourceError(f"token file {file}: {why_missing(Path(file))}") from None
        except InvalidInputError as error:
            raise InvalidInputError(f"token file {error}") from None
        except UnicodeDecodeError:
            raise InvalidInputError(f"token file {file}: expected one line of text") from None
    else:
        token = os.environ.get(variable, "").strip()
        if not token:
            return ""
    if len(token) < _SHORTEST or not (token.isascii() and token.isprintable()) or " " in token:
        where = f"token file {file}" if file else variable
        raise InvalidInputError(
            f"{where}: expected {_SHORTEST} or more printable ASCII characters without spaces"
        )
    hide(token)
    return token


def authorises(header: str, token: str) -> bool:
    """Whether an Authorization header has the token. Takes the same time for every wrong one. HTTP
    lets the scheme be written in any case, with blanks around the token.
    """
    scheme, _, given = header.strip(" \t").partition(" ")
    is_same = hmac.compare_digest(given.strip(" \t").encode(), token.encode())
    return is_same and scheme.lower() == "bearer"


def authorisation(token: str) -> dict[str, str]:
    """The header that sends the token, none for an empty one."""
    return {"Authorization": f"Bearer {token}"} if token else {}
