"""The check of a URL that a person gave."""

from __future__ import annotations

import httpx

from tspo_cli.errors import InvalidInputError
from tspo_cli.text.secrets import hide_login, hide_parameters

URL_FORM = "http://127.0.0.1:8000 (the directory of an index goes in --index or retriever.index)"
"""An example of a retriever's server, and what else a person may have meant."""


def check_url(url: str, owner: str, example: str) -> None:
    """Raises InvalidInputError for anything but an http(s) URL with a host. What its server repeats
    of the user, the password and of parameters that are secrets is hidden from now on.

    The message names `owner`, the service that the URL is for, and an `example`.
    """
    try:
        host = httpx.URL(url).raw_host
        host.decode().encode("idna")  # as the system asks for it: a..b is no name
        valid = httpx.URL(url).scheme in ("http", "https") and host
    except (httpx.InvalidURL, UnicodeError):
        valid = False
    if not valid:
        raise InvalidInputError(
            f"{owner}: expected a URL like {example}, got {without_login(url)!r}"
        )
    hide_login(httpx.URL(url).username, httpx.URL(url).password)
    hide_parameters(httpx.URL(url).params.multi_items())


def below(url: str, path: str) -> str:
    """The URL of a path below a base URL, which may have parameters: http://h/v1?key=a and /models
    give http://h/v1/models?key=a.
    """
    base, mark, parameters = url.partition("#")[0].partition("?")
    return base.rstrip("/") + path + mark + parameters


def is_this_machine(url: str) -> bool:
    """Whether the address of a checked URL is that of the machine itself, whichever it is."""
    host = httpx.URL(url).host
    return host in ("localhost", "::1") or host.startswith("127.")


def without_login(text: str) -> str:
    """What was given for a URL, with *** for everything before an @, which may be a password, and
    for its parameters.
    """
    before, at, rest = text.rpartition("@")
    address, mark, _ = (f"***@{rest}" if at and before else text).partition("?")
    return f"{address}?***" if mark else address


def shown_url(url: str) -> str:
    """A checked URL as messages may show it: without user, password and query."""
    parts = httpx.URL(url)
    port = f":{parts.port}" if parts.port is not None else ""
    host = f"[{parts.host}]" if ":" in parts.host else parts.host
    return f"{parts.scheme}://{host}{port}{parts.path}"
