"""Groups of tensors over gloo, met by an id as NCCL's are. The first member is the learner."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tspo_cli.rollout.engines.vllm_engine.nccl import ID_BYTES, TransferError

VERSION = 22705


def member(group_id: bytes, rank: int, members: int) -> Any:
    """The group's id holds the port of its store."""
    wait, port = timedelta(seconds=60), int(group_id[:8].decode())
    store = dist.TCPStore("127.0.0.1", port, members, is_master=rank == 0, timeout=wait)
    return dist.ProcessGroupGloo(store, rank, members, wait)


def from_first(group: Any, tensor: torch.Tensor) -> Any:
    options = dist.BroadcastOptions()
    options.rootRank = 0
    return group.broadcast([tensor], options)


class Group:
    """As `NcclGroup`: tensors are on their way when `broadcast` returns."""

    def __init__(self, group: Any) -> None:
        self.group, self.aborted, self.works = group, False, list[Any]()

    def broadcast(self, tensor: torch.Tensor) -> None:
        if not self.aborted:
            self.works.append(from_first(self.group, tensor.clone()))

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.aborted and not all(work.is_completed() for work in self.works):
            if time.monotonic() > end:
                raise TransferError("too late")
            time.sleep(0.001)
        if self.aborted:
            raise TransferError("given up")

    def abort(self) -> None:
        self.aborted = True


class Groups:
    """As `NcclGroups`."""

    version, gpu = VERSION, "GPU-learner"

    def __init__(self) -> None:
        self.made: list[Group] = []

    def new_id(self) -> bytes:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return f"{free.getsockname()[1]:08}".encode().ljust(ID_BYTES, b"\0")

    def join(self, group_id: bytes, members: int) -> Group:
        self.made.append(Group(member(group_id, 0, members)))
        return self.made[-1]
