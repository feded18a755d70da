"""One node of a launch: its servers and training processes, from the start to the end of both."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tspo_cli.console import say, warn
from tspo_cli.errors import RemoteServiceError, TspoError
from tspo_cli.plain_files import append_plain, require_folder
from tspo_cli.training.launch.child_processes import end_processes, pass_on
from tspo_cli.training.launch.claim import check_run_place
from tspo_cli.training.launch.nodes.cluster_plan import ClusterPlan, Server, visible_gpus
from tspo_cli.training.launch.nodes.first_node import (
    SIGN_SECONDS,
    FirstNode,
    showing_signs_of_life,
    sign_file,
)
from tspo_cli.training.launch.replaced_run import LAUNCH_NAME

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that training gets; servers end after it."""
LAST_WORDS = 100.0
"""Seconds for training to end after a signal, before what is left of it is ended."""
_SAME_SIGNAL = 5.0
"""Seconds in which the same signal counts once: Slurm may send it to a job's script and its steps.
A second one ends a training at once. (Ctrl-C always counts.)
"""
ALONE = 45.0
"""Seconds that training may go on after the first node has ended."""
_POLL_SECONDS = 0.2
_MOST_STARTS = 5
"""Of one server. After that, its failure is no accident."""
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_OF_LAUNCHERS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Variables of a launcher around this one, which are not for the processes of this one; and those
that begin with TORCHELASTIC.
"""

Process = subprocess.Popen[Any]


@dataclass(frozen=True, slots=True)
class Job:
    """What a node has to run.

    node: which of the plan's nodes this is.
    name: tells the launch from another one of the same run, on all nodes alike.
    train: arguments of `tspo train`, without what the plan adds.
    python: the Python of all processes.
    tokens: of retrievers and engines, by variable.
    wait: seconds until all servers must be ready.
    """

    plan: ClusterPlan
    node: int
    name: str
    run: Path
    train: tuple[str, ...]
    python: str
    tokens: dict[str, str]
    wait: float

    @property
    def trains(self) -> bool:
        """Whether this node has training processes."""
        return self.node < self.plan.training_nodes

    @property
    def folder(self) -> Path:
        """Where the servers' logs are."""
        return self.run / LAUNCH_NAME


def run_node(job: Job) -> int:
    """Start this node's servers, wait for those of all nodes, train, and stop the servers. Returns
    the exit code of the training, 0 for a node that only serves.

    Signals go to the training processes. A server that ends meanwhile is started again. The first
    node tells the others when the training has ended: until then their servers stay.

    Raises:
        TspoError: the first node is lost.
        RemoteServiceError: a server ended before it was ready, was not ready in time, or ends again
            and again.
        InvalidInputError: something else than a run stands in its place.
    """
    check_run_place(job.run)
    require_folder(job.folder, own=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    if job.node or len(job.plan.nodes.hosts) == 1:
        return _run(job)
    with showing_signs_of_life(sign_file(job.folder, job.name)) as ending:
        ending.code = _run(job)
        return ending.code


def _run(job: Job) -> int:
    """See `run_node`."""
    servers, first = _Servers(job), None
    if job.node:
        first = FirstNode(sign_file(job.folder, job.name), job.plan.nodes.hosts[0], job.wait)
    with Signals() as signals:
        try:
            servers.start()
            servers.wait_until_ready(signals, first)
            code = _train(job, servers, signals, first) if job.trains else 0
            return code or _serve(first, servers, signals)
        finally:
            servers.stop()


class Signals:
    """Signals of this process: kept, and handed to the training processes while there are any."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.at = 0.0
        self.again = False
        self.last: dict[int, float] = {}
        self.children: list[Process] = []

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._receive) for number in FORWARDED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        last = self.last.get(number, -_SAME_SIGNAL)
        self.last[number] = now
        if number != signal.SIGINT and now - last < _SAME_SIGNAL:
            return
        self.again = self.first is not None
        if self.first is None:
            self.first, self.at = number, now
        for child in self.children:
            pass_on(child, number)

    def hand_to(self, children: list[Process]) -> None:
        """From now on `children` get the signals, also the one that came before they were there."""
        self.children = children
        if self.first is not None:
            for child in children:
                pass_on(child, self.first)

    @property
    def code(self) -> int:
        """The exit code of a process that the first signal ended."""
        return 128 + (self.first or 0)

    def overdue(self) -> bool:
        """Whether what has to end after a signal takes longer than `LAST_WORDS`."""
        return self.first is not None and time.monotonic() - self.at > LAST_WORDS


class _Servers:
    """The servers of one node. Each starts anew when it ended, after it was ready once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.own = job.plan.servers_of(job.node)
        self.processes: dict[str, Process] = {}
        self.starts = dict.fromkeys((server.name for server in self.own), 0)

    def start(self) -> None:
        """Start all of this node."""
        for server in self.own:
            self._start(server)

    def wait_until_ready(self, signals: Signals, first: FirstNode | None) -> None:
        """Wait for the servers of all nodes: training may use any of them."""
        waiting, started = list(self.job.plan.servers), time.monotonic()
        if waiting:
            names = ", ".join(server.name for server in waiting)
            say(
                f"waiting for {names}, for up to {self.job.wait:g} s (launch.wait); logs are in "
                f"{self.job.folder}"
            )
        while waiting:
            for server in self.own:
                self._refuse_early_end(server)
            if first is not None and first.has_ended():
                raise TspoError(f"{first.ending}; this node still waited for {waiting[0].name}")
            waiting = [server for server in waiting if not _is_ready(server)]
            if signals.first is not None:
                raise SystemExit(signals.code)
            if waiting and time.monotonic() - started > self.job.wait:
                server = waiting[0]
                raise RemoteServiceError(
                    f"{server.name}: not ready at {server.ready} after {self.job.wait:g} s "
                    f"(launch.wait); see {self._log(server)}"
                )
            time.sleep(_POLL_SECONDS if waiting else 0)
        for server in self.own:
            say(f"{server.name} is ready at {server.url}; its log is {self._log(server)}")

    def keep_up(self) -> None:
        """Start again what has ended."""
        for server in self.own:
            code = self.processes[server.name].poll()
            if code is None:
                continue
            if self.starts[server.name] == _MOST_STARTS:
                raise RemoteServiceError(
                    f"{server.name}: ended {_MOST_STARTS} times; see {self._log(server)}"
                )
            warn(f"{server.name} ended with {code}; it is started again ({self._log(server)})")
            self._start(server)

    def stop(self) -> None:
        """End all of this node, with what they started: an engine that lives on keeps its GPU."""
        end_processes([*self.processes.values()])
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _start(self, server: Server) -> None:
        self.starts[server.name] += 1
        command = [
            *(self.job.python, "-m", "tspo_cli.training.launch.nodes.server_process"),
            *(str(os.getpid()), *server.arguments),
        ]
        variables = _variables(self.job, server.gpus)
        with append_plain(self._log(server)) as log:
            # In a session of its own: Ctrl-C in the terminal is for the training alone.
            self.processes[server.name] = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _log(self, server: Server) -> Path:
        return self.job.folder / f"{server.name}.log"

    def _refuse_early_end(self, server: Server) -> None:
        code = self.processes[server.name].poll()
        if code is not None:
            lines = self._log(server).read_text("utf-8", errors="replace").splitlines()
            said = f": {lines[-1].removeprefix('error: ')}" if lines else ""
            raise RemoteServiceError(
                f"{server.name}: ended with {code} before it was ready{said}; see "
                f"{self._log(server)}"
            )


def _train(job: Job, servers: _Servers, signals: Signals, first: FirstNode | None) -> int:
    """The first exit code of the training processes that is not 0, or 0. When one of them fails,
    the others are ended; after a signal each has time to end by itself.

    Raises:
        TspoError: the first node is lost, or has ended long before this one. Its processes may have
            been refused before those of this node could meet them.
    """
    alone_since = math.inf
    with _training_processes(job) as children:
        signals.hand_to(children)
        try:
            while True:
                codes = [child.poll() for child in children]
                failed = next((code for code in codes if code), None)
                over = all(code is not None for code in codes)
                if over or signals.overdue() or (failed is not None and signals.first is None):
                    return _exit_code(signals.code if failed is None and not over else failed or 0)
                if signals.first is None:
                    servers.keep_up()
                if first is not None and first.has_ended(in_training=True):
                    alone_since = min(alone_since, time.monotonic())
                if first is not None and time.monotonic() - alone_since > ALONE:
                    raise TspoError(
                        f"{first.ending}; the training of this one went on for {ALONE:g} s"
                    )
                time.sleep(_POLL_SECONDS)
        finally:
            signals.children = []


@contextmanager
def _training_processes(job: Job) -> Iterator[list[Process]]:
    plan = job.plan
    settings = [word for setting in plan.settings for word in ("--set", setting)]
    alone = plan.training_nodes == 1
    if alone:
        settings += ["--set", f"train.processes={plan.processes}"]
    command = [
        *(job.python, "-m", "tspo_cli.training.launch.child_processes", str(os.getpid())),
        *(*job.train, *settings),
    ]
    variables = _variables(job, plan.gpus)
    ranks = [{}] if alone else [_rank(job, local) for local in range(plan.processes)]
    children: list[Process] = []
    try:
        for rank in ranks:
            children.append(
                subprocess.Popen(command, env={**variables, **rank}, start_new_session=True)
            )
        yield children
    finally:
        end_processes(children)


def _rank(job: Job, local: int) -> dict[str, str]:
    """The variables that tell a training process its place among those of all nodes."""
    plan = job.plan
    return {
        "RANK": str(job.node * plan.processes + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(plan.training_nodes * plan.processes),
        "LOCAL_WORLD_SIZE": str(plan.processes),
        "MASTER_ADDR": plan.nodes.hosts[0],
        "MASTER_PORT": str(plan.nodes.port),
    }


def _variables(job: Job, gpus: Sequence[int]) -> dict[str, str]:
    """The environment of a process on these GPUs of the node."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_LAUNCHERS and not name.startswith("TORCHELASTIC")
    }
    if job.plan.nodes.gpus:
        names = visible_gpus()
        visible = [str(gpu) if names is None else names[gpu] for gpu in gpus]
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    return variables | job.tokens


def _serve(first: FirstNode | None, servers: _Servers, signals: Signals) -> int:
    """Keep the servers of this node up until the first node says that the training has ended, also
    after one signal, which the training got too. Where none has begun, it ends this node.
    """
    while first is not None and not first.has_ended():
        is_alone = signals.first is not None and not first.has_begun
        if is_alone or signals.again or signals.overdue():
            return signals.code
        if signals.first is None:
            servers.keep_up()
        time.sleep(SIGN_SECONDS)
    return 0


def _is_ready(server: Server) -> bool:
    try:
        with _NO_PROXY.open(server.ready, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code
