"""Without a network, the local cache of the hub is used at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from tspo_cli import hub_access
from tspo_cli.errors import MissingResourceError
from tspo_cli.models.load_model import model_config

VARIABLES = (*hub_access._SET_BY_USER, *hub_access._PROXIES)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Hosts whose address was asked for, which nobody knows."""
    hosts: list[object] = []

    def unknown(host: object, *rest: object, **more: object) -> object:
        hosts.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    hub_access.use_cache_without_network.cache_clear()
    yield hosts
    hub_access.use_cache_without_network.cache_clear()


def test_without_a_network_a_model_is_missing_at_once(
    looked_up: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(MissingResourceError, match="nobody/nothing"):
            model_config("nobody/nothing")
    assert len(looked_up) == 1
    assert capsys.readouterr().err.count("no network: ") == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("name", VARIABLES)
def test_proxies_and_what_a_user_has_set_stay(
    name: str, looked_up: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    hub_access.use_cache_without_network()
    assert not looked_up
    assert not constants.HF_HUB_OFFLINE
