"""The bearer token of a retriever.

It comes from a file or the environment, never from a command line or a configuration: other users
can see those, and every run keeps them.
"""

from __future__ import annotations

import os
from pathlib import Path

from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.text.secrets import hide

TOKEN_VARIABLE = "TSPO_RETRIEVER_TOKEN"
_SHORTEST = 16


def read_token(file: str = "") -> str:
    """The token in `file`, or else in the environment variable TSPO_RETRIEVER_TOKEN, or else "".

    Raises:
        MissingResourceError: no such file.
        InvalidInputError: shorter than 16 characters, or not printable ASCII without spaces.
    """
    if file:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise MissingResourceError(
                f"token file {file}: {(error.strerror or str(error)).lower()}"
            ) from None
        except UnicodeDecodeError:
            raise InvalidInputError(f"token file {file}: expected one line of text") from None
    else:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return ""
    if len(token) < _SHORTEST or not (token.isascii() and token.isprintable()) or " " in token:
        where = f"token file {file}" if file else TOKEN_VARIABLE
        raise InvalidInputError(
            f"{where}: expected {_SHORTEST} or more printable ASCII characters without spaces"
        )
    hide(token)
    return token
