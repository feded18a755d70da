"""NCCL groups that are met by an id, not by a port: what a training process shares with a vLLM
server. The id goes to the server over HTTP, with the token; nothing is pickled.

vLLM 0.32 joins such a group with `PyNcclCommunicator.from_unique_id_bytes`: after the start every
member adds up one number, then the server receives what process 0 broadcasts.
"""

from __future__ import annotations

import ctypes
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

ID_BYTES = 128
LIBRARY = "libnccl.so.2"
"""As torch brings it; vLLM loads it by the same name."""
_NUMBERS = {"float16": 6, "float32": 7, "float64": 8, "bfloat16": 9, "int64": 4, "uint8": 1}
"""ncclDataType_t of torch's types."""
_SUM = 0
_POLL_SECONDS = 0.001


class TransferError(Exception):
    """A group cannot be made, or a member of it is lost. The message is one line."""


class TensorGroup(Protocol):
    """A training process and the workers of one server. The process sends, and is rank 0."""

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Send a contiguous tensor to all members; it may return before they have it. Does nothing
        after `abort`.

        Raises:
            TransferError: the group has failed.
        """
        ...

    def wait(self, seconds: float) -> None:
        """Return when everything is sent, so that the tensors may change.

        Raises:
            TransferError: that takes longer than `seconds`, or the group was aborted.
        """
        ...

    def abort(self) -> None:
        """Give the group up, also while another thread uses it. Nobody waits for it afterwards."""
        ...


class GroupMaker(Protocol):
    """Makes the groups of a training process with servers."""

    version: int
    """Members with different versions cannot meet, see `version_words`."""
    gpu: str
    """The process's own GPU. A member has one that no other member has."""

    def new_id(self) -> bytes:
        """The name of a new group, `ID_BYTES` long."""
        ...

    def join(self, group_id: bytes, members: int) -> TensorGroup:
        """Meet the other members; waits for all of them.

        Raises:
            TransferError: they cannot meet.
        """
        ...


def version_words(version: int) -> str:
    """Such as "2.27.5" for NCCL's 22705; "none" for 0."""
    if not version:
        return "none"
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


@cache
def library() -> Any | None:
    """NCCL, None where it cannot be loaded."""
    import torch  # noqa: F401  (brings the library)

    try:
        found = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    found.ncclGetErrorString.restype = ctypes.c_char_p
    return found


def library_version() -> int:
    """NCCL's version, such as 22705; 0 where there is none."""
    found, number = library(), ctypes.c_int()
    if found is None or found.ncclGetVersion(ctypes.byref(number)):
        return 0
    return number.value


def gpu_name(device: torch.device) -> str:
    """The same for the same GPU in all processes of all machines."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid)


class _Id(ctypes.Structure):
    _fields_ = (("internal", ctypes.c_byte * ID_BYTES),)


class NcclGroups:
    """`GroupMaker` for a training process with the GPU `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.version, self.gpu = device, library_version(), gpu_name(device)

    def new_id(self) -> bytes:
        """See `GroupMaker`."""
        made = _Id()
        _check(library().ncclGetUniqueId(ctypes.byref(made)))  # type: ignore[union-attr]
        return bytes(made)

    def join(self, group_id: bytes, members: int) -> NcclGroup:
        """See `GroupMaker`."""
        return NcclGroup(group_id, members, self.device)


class NcclGroup:
    """`TensorGroup` over NCCL. All of it happens on the current stream of the caller's thread.

    Raises:
        TransferError: the members cannot meet.
    """

    def __init__(self, group_id: bytes, members: int, device: torch.device) -> None:
        import torch

        self.device, self.aborted = device, False
        self._lock, self._library, self._group = threading.Lock(), library(), ctypes.c_void_p()
        torch.cuda.set_device(device)
        name = _Id.from_buffer_copy(group_id)
        _check(
            self._library.ncclCommInitRank(  # type: ignore[union-attr]
                ctypes.byref(self._group), members, name, 0
            )
        )
        one = torch.zeros(1, device=device)
        self._call("ncclAllReduce", one, ctypes.c_int(_SUM))
        torch.cuda.current_stream(device).synchronize()

    def broadcast(self, tensor: torch.Tensor) -> None:
        """See `TensorGroup`."""
        with self._lock:
            if not self.aborted:
                self._call("ncclBroadcast", tensor.to(self.device), ctypes.c_int(0))

    def wait(self, seconds: float) -> None:
        """See `TensorGroup`."""
        import torch

        sent = torch.cuda.Event()
        sent.record(torch.cuda.current_stream(self.device))
        end = time.monotonic() + seconds
        while not sent.query():
            self._look()
            if time.monotonic() > end:
                raise TransferError(f"tensors were not sent within {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)
        if self.aborted:
            raise TransferError("the transfer was given up")

    def abort(self) -> None:
        """See `TensorGroup`."""
        self.aborted = True
        held = self._lock.acquire(timeout=1.0)  # the thread inside waits for a lost member
        try:
            group, self._group = self._group, ctypes.c_void_p()
            if group:
                self._library.ncclCommAbort(group)  # type: ignore[union-attr]
        finally:
            if held:
                self._lock.release()

    def _call(self, name: str, tensor: torch.Tensor, how: ctypes.c_int) -> None:
        """`how` is the operation of ncclAllReduce and the sender of ncclBroadcast."""
        import torch

        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in _NUMBERS:
            raise TransferError(f"cannot send numbers of type {kind}")
        place = ctypes.c_void_p(tensor.data_ptr())
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        count = ctypes.c_size_t(tensor.numel())
        function = getattr(self._library, name)
        _check(
            function(place, place, count, ctypes.c_int(_NUMBERS[kind]), how, self._group, stream)
        )

    def _look(self) -> None:
        state = ctypes.c_int()
        with self._lock:
            if not self.aborted:
                _check(
                    self._library.ncclCommGetAsyncError(  # type: ignore[union-attr]
                        self._group, ctypes.byref(state)
                    )
                )
                _check(state.value)


def _check(result: int) -> None:
    """Raises TransferError: NCCL's `result` is an error."""
    found = library()
    if result and found is not None:
        raise TransferError(f"NCCL: {found.ncclGetErrorString(result).decode()}")
