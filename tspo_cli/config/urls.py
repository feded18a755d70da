"""The check of a URL that a person gave."""

from __future__ import annotations

import httpx

from tspo_cli.errors import InvalidInputError


def check_url(url: str, owner: str, example: str) -> None:
    """Raises InvalidInputError for anything but an http(s) URL with a host.

    The message names `owner`, the service that the URL is for, and an `example`.
    """
    try:
        valid = httpx.URL(url).scheme in ("http", "https") and httpx.URL(url).host
    except httpx.InvalidURL:
        valid = False
    if not valid:
        raise InvalidInputError(f"{owner}: expected a URL like {example}, got {url!r}")
