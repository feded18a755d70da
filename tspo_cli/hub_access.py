"""The Hugging Face hub: which names are looked up on it, and machines without a network."""

from __future__ import annotations

import os
import re
import socket
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from tspo_cli.console import say
from tspo_cli.errors import MissingResourceError
from tspo_cli.plain_files import made_by, require_listable, why_missing

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_NAME_ALONE = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_GGUF = ".gguf"
_OFFLINE = "HF_HUB_OFFLINE"
_SET_BY_USER = (_OFFLINE, "TRANSFORMERS_OFFLINE")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def is_directory(name: str | Path, what: str, example: str, *, alone: bool = False) -> bool:
    """True for the directory of a `what`, False for a name on the hub, written like `example`. A
    name of one part is one only where `alone` says so. No network is used.

    Raises:
        MissingResourceError: it is neither, such as a file or a mistyped path.
        InvalidInputError: a directory whose files this user may not list.
    """
    path = Path(name)
    if path.is_dir():
        require_listable(path)
        return True
    if path.exists():
        convert = f"convert it with: tspo model convert {path} --out DIR"
        advice = convert if path.suffix == _GGUF else "name the directory that holds the model"
        raise MissingResourceError(
            f"{name}: expected a directory of a {what}, got a file; {advice}"
        )
    pattern = _NAME_ALONE if alone and len(path.parts) == 1 else _NAME
    # A first part that exists here is a mistyped path, not a hub name.
    if not pattern.fullmatch(str(name)) or path.is_symlink() or Path(path.parts[0]).exists():
        reason = why_missing(path, f"no such {what} directory")
        maker = made_by(path)
        advice = f"check the path, or give a hub name like {example}"
        raise MissingResourceError(f"{name}: {reason}; {f'{maker} makes it' if maker else advice}")
    return False


@lru_cache(maxsize=1)
def use_cache_without_network() -> None:
    """Call it before a name is looked up on the hub. Where the hub's address is not known here, its
    local cache is used alone: huggingface_hub would try to connect for half a minute, for each
    file. A proxy knows the address itself, and what a user has set stays.
    """
    if any(os.environ.get(name) for name in (*_SET_BY_USER, *_PROXIES)):
        return
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        say(f"no network: {host} is not known here; the local cache of the hub is used alone")
        os.environ[_OFFLINE] = "1"  # for processes that this one starts
        constants.HF_HUB_OFFLINE = True
