"""Something happens to a training process at a chosen moment. Called in it before the command
(`tests.conftest.run_prepared`).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from tspo_cli.disk import WriteError
from tspo_cli.rollout.agent import _Loop
from tspo_cli.timing import got_further
from tspo_cli.training import loop
from tspo_cli.training.core.training_core import TrainingCore
from tspo_cli.training.launch import same_command, saved_steps
from tspo_cli.training.launch.child_processes import end_with_parent
from tspo_cli.training.rl.rl_step import RlStep

# Moment -> where the call is looked up. A step of the tests has one rollout phase and one update.
MOMENTS: dict[str, tuple[Any, str]] = {
    "rollouts": (_Loop, "_search"),
    "update": (TrainingCore, "_accumulate"),
    "weights": (RlStep, "hand_over_weights"),
    "records": (loop, "_record"),
    "evaluation": (loop, "_evaluate"),
    "checkpoint": (saved_steps, "begin_checkpoint"),
    "start": (saved_steps, "agree_to_stop"),
}


def at(moment: str, number: int, act: Callable[[], None], *, inside: bool = False) -> None:
    """Call `act` at the `number`-th time (from 1) that this process comes to `moment`. If `inside`,
    at the first search after it.
    """
    owner, name = MOMENTS[moment]
    work, left = getattr(owner, name), number

    def watched(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and inside:
            at("rollouts", 1, act)
        elif left == 0:
            act()
        return work(*arguments, **options)

    setattr(owner, name, watched)


def is_one_of(ranks: str) -> bool:
    return not ranks or os.environ.get("RANK", "0") in ranks.split(",")


def move(moment: str, number: str, source: str, target: str, other: str = "") -> None:
    """Somebody renames a folder, and makes another one with a file `other` in its place."""

    def act() -> None:
        os.rename(source, target)
        if other:
            os.mkdir(source)
            with open(os.path.join(source, other), "w", encoding="utf-8") as handle:
                handle.write("mine")

    at(moment, int(number), act)


def kill_before(name: str, number: str) -> None:
    """The process is killed when it begins, for the `number`-th time, to write a file of which the
    name begins with `name` or with a dot and `name`.
    """
    left = int(number)

    def watched(event: str, arguments: Any) -> None:
        nonlocal left
        if event != "open" or not str(arguments[1]).startswith("w"):
            return
        if os.path.basename(os.fsdecode(arguments[0])).removeprefix(".").startswith(name):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watched)


def elsewhere(folder: str, ranks: str) -> None:
    """The process works in another folder."""
    same_command.FILE_PATIENCE = 1.0
    if is_one_of(ranks):
        os.chdir(folder)


def told(word: str, ranks: str) -> None:
    """The process has another word in its command."""
    if is_one_of(ranks):
        sys.argv += ["--set", word] if "=" in word else [word]


def send(moment: str, number: str, name: str, ranks: str = "", times: str = "1") -> None:
    """This process gets the signal `name`, if it is one of `ranks`."""

    def act() -> None:
        for _ in range(int(times)):
            os.kill(os.getpid(), signal.Signals[name])
            time.sleep(0.01)

    if is_one_of(ranks):
        at(moment.removesuffix("-inside"), int(number), act, inside=moment.endswith("-inside"))


def stop_twice() -> None:
    """SIGTERM in the second step, and again when the status of the stopped run is about to be
    written.
    """
    write, came = loop.set_status, []

    def watched(directory: Any, state: str, *values: Any) -> None:
        if state == "stopped" and not came:
            came.append(state)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        write(directory, state, *values)

    loop.set_status = watched
    send("update", "2", "SIGTERM")


def group(moment: str, number: str, name: str, again: str = "") -> None:
    """This process, which another tspo command has started, gets the signal `name` as its whole
    process group does, then SIGTERM of the command, which got `name` too, and then `again`.
    """

    def act() -> None:
        for each in filter(None, [name, "SIGTERM", again]):
            os.kill(os.getpid(), signal.Signals[each])
            time.sleep(0.01)

    end_with_parent(os.getppid())
    at(moment, int(number), act)


def fail(moment: str, number: str, kind: str, ranks: str) -> None:
    """This process of `ranks` fails: `kind` is "memory", "disk", "stall", "killed" or
    "slow".
    """

    def act() -> None:
        if kind == "memory":
            raise MemoryError("no room for 123 MB")
        if kind == "disk":
            raise WriteError(errno.ENOSPC, "No space left on device", "RUN/best")
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "stall":
            time.sleep(3600)
        for _ in range(40):  # slow: every part of the work takes less than the limit
            time.sleep(0.2)
            got_further()

    if is_one_of(ranks):
        at(moment, int(number), act)
