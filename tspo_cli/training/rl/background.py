"""Work in a background thread while the main thread does something else, also on a GPU.

CUDA's current device and stream belong to a thread. A new thread would compute on GPU 0, and on the
same stream as the main thread, so that the kernels of both would wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.threads import DaemonPool
from tspo_cli.training.problems import VLLM_BESIDE_LEARNER, engine_problems

T = TypeVar("T")

Result = Callable[..., T | None]

_POLL_SECONDS = 0.2
_LONGEST_STOP = 3.0
"""Seconds that a failed body waits for the work to stop. It may hang in a library."""


def refuse_unsafe_background(config: Config) -> None:
    """Raises InvalidInputError: rollouts are to be sampled while the learner works, by an engine
    that is only safe in the thread that started it.
    """
    if VLLM_BESIDE_LEARNER in engine_problems(config, gpu=torch.cuda.is_available()):
        raise InvalidInputError(VLLM_BESIDE_LEARNER)


def beside_this_thread(work: Callable[[Event], T]) -> Callable[[Event], T]:
    """`work` for another thread, on the GPU of this thread and a stream of its own. It begins after
    what this thread has given to the GPU so far, and has ended on the GPU when it returns. Without
    a GPU it is `work`.
    """
    if not torch.cuda.is_available():
        return work
    device = torch.cuda.current_device()
    stream = torch.cuda.Stream(device)
    before = torch.cuda.current_stream(device).record_event()

    def on_side_stream(stop: Event) -> T:
        torch.cuda.set_device(device)
        with torch.cuda.stream(stream):
            stream.wait_event(before)
            result = work(stop)
        stream.synchronize()
        return result

    return on_side_stream


@contextmanager
def in_background(work: Callable[[Event], T]) -> Iterator[Result[T]]:
    """Run `work` in a thread during the body of the `with` statement.

    Yields a function that waits for the result of `work` and returns it, or raises its error. It
    returns None as soon as its argument, a function, returns something true. Then, and when the
    body fails, the event that `work` was given is set, and `work` is waited for, a few seconds at
    most.
    """
    stop = Event()
    pool = DaemonPool(1, "background")
    future = pool.submit(beside_this_thread(work), stop)

    def result(gives_up: Callable[[], object] = bool) -> T | None:
        while not gives_up():
            if wait([future], timeout=_POLL_SECONDS).done:
                return future.result()
        stop.set()
        wait([future], timeout=_LONGEST_STOP)
        return None

    try:
        yield result
    except BaseException:
        stop.set()
        wait([future], timeout=_LONGEST_STOP)
        raise
    finally:
        pool.close()
