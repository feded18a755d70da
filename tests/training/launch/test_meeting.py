"""Processes of a launcher that cannot meet say so in one line."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from tspo_cli.errors import MissingResourceError, TspoError, UsageError
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
        # Another test of this process may have made a group of one.
        monkeypatch.setattr(dist, "is_initialized", lambda: False)
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


@pytest.mark.parametrize(("rank", "other"), [("0", 1), ("1", 0)])
def test_a_process_says_for_whom_it_waits(
    taken: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    rank: str,
    other: int,
) -> None:
    taken.close()
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(distributed, "LONGEST_WAIT", timedelta(seconds=2))
    monkeypatch.setattr(distributed, "FIRST_WORD", 0.3)
    monkeypatch.setattr(distributed, "_ATTEMPT", 0.4)
    with pytest.raises(TspoError, match="in vain"):
        distributed.init_distributed()
    lines = capfd.readouterr().err.splitlines()
    why = "" if rank == "0" else r" \(Connection refused\)"
    words = f"process {rank} of 2 has waited [0-9]+ seconds for process {other}{why};"
    assert 1 <= len(lines) <= 4, "each time the wait has doubled"
    assert all(re.search(words, line) for line in lines)


TOLD: dict[str, tuple[dict[str, str], str]] = {
    "a rank that is not there": ({"RANK": "2"}, r"RANK: expected a number from 0 to 1 .*got 2"),
    "no rank": ({"RANK": "abc"}, "RANK: expected a whole number, got 'abc'"),
    "below 0": ({"LOCAL_RANK": "-1"}, "LOCAL_RANK: expected a whole number, got '-1'"),
    "a local rank": ({"LOCAL_RANK": "7"}, "LOCAL_RANK: expected a number from 0 to 1"),
    "no port": ({"MASTER_PORT": "abc"}, "MASTER_PORT: expected a whole number"),
    "above all ports": ({"MASTER_PORT": "70000"}, "MASTER_PORT: .*1 to 65535 .*got 70000"),
    "port 0": ({"MASTER_PORT": "0"}, "MASTER_PORT: expected a number from 1"),
    "no size": ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a whole number, got 'two'"),
    "one of nobody knows how many": ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK: got 1, but"),
}


@pytest.mark.parametrize("case", TOLD)
def test_variables_of_a_launcher_are_checked(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    changed, words = TOLD[case]
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words) as caught:
        distributed.init_distributed()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("WORLD_SIZE", "3", "WORLD_SIZE: 3 here, .* has 2"), ("RANK", "0", "has 0 too; give each")],
)
def test_processes_that_were_told_what_does_not_fit(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """Process 0 of 2 is there."""
    store = dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5)
    )
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    store.set("tspo/attempt_0/here/processes", "2")
    store.add("tspo/attempt_0/here/0", 1)
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        distributed.init_distributed()
