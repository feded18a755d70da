"""Processes of a launcher that cannot meet say so in one line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tspo_cli.errors import MissingResourceError, TspoError
from tspo_cli.training.core import distributed


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A port that somebody listens at, which the environment names as that of a launcher."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        values = {"MASTER_PORT": listener.getsockname()[1], "MASTER_ADDR": "127.0.0.1"}
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, **values}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(distributed, "LONGEST_WAIT", timedelta(seconds=1))
        yield listener


def test_a_port_that_is_taken_is_named(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with pytest.raises(MissingResourceError, match=rf"127.0.0.1:{port}: another program") as caught:
        distributed.init_distributed()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_does_not_come_is_not_waited_for_without_end(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    taken.close()
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(TspoError, match=f"process {rank} of 2 waited there for") as caught:
        distributed.init_distributed()
    assert "\n" not in str(caught.value)
