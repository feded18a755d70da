"""The Hugging Face hub from machines without a network."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from urllib.parse import urlsplit

from tspo_cli.console import say

_OFFLINE = "HF_HUB_OFFLINE"
_SET_BY_USER = (_OFFLINE, "TRANSFORMERS_OFFLINE")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


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
