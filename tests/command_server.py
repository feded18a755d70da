"""A process that has imported tspo once and forks a child for every command of the tests.

Starting Python and importing torch, transformers and DeepSpeed takes longer than most commands do.
A child has the process's imports and nothing else of it: its own environment, folder, output and
exit code, as a new process has.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

HEAVY = ("transformers.models.qwen2.modeling_qwen2", "scipy.stats", "matplotlib.pyplot", "datasets")


class CommandServer:
    """Started by the first command. One command runs at a time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def run(
        self,
        arguments: list[str],
        *,
        cwd: Path | None,
        out: Path,
        err: Path,
        timeout: float,
        prepare: str = "",
        ranks: int = 1,
    ) -> list[int]:
        """Run `tspo ARGUMENTS` to its end; returns the exit code as `subprocess` does. Its output
        goes to the files `out` and `err`. After `timeout` seconds it is killed.

        `prepare`, as "module:function:argument:...", is called first in its process. With several
        `ranks` the command runs in as many processes, as a launcher starts them; there is an exit
        code of each.
        """
        request = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ),
            "out": str(out),
            "err": str(err),
            "timeout": timeout,
            "prepare": prepare,
            "ranks": ranks,
        }
        with self.lock:
            if self.process is None:
                self.process = subprocess.Popen(
                    [sys.executable, __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            try:
                return [int(code) for code in json.loads(self.process.stdout.readline())]
            except BaseException:  # the test's time is over: the answer would be the next one's
                self.process.kill()
                self.process = None
                raise

    def close(self) -> None:
        """End the process."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def can_fork() -> bool:
    """True where importing torch leaves a process that may fork: not with CUDA, not with vLLM."""
    import torch

    return torch.version.cuda is None and importlib.util.find_spec("vllm") is None


def _serve() -> None:
    _import_everything()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        children = []
        for environment in _environments(request["ranks"]):
            children.append(os.fork())
            if children[-1] == 0:
                _become(request, environment)
        limit = threading.Timer(request["timeout"], _kill, (children,))
        limit.start()
        statuses = [os.waitpid(child, 0)[1] for child in children]
        limit.cancel()
        limit.join()
        print(json.dumps([os.waitstatus_to_exitcode(status) for status in statuses]), flush=True)
    os._exit(0)


def _import_everything() -> None:
    """All modules of the package, what it imports inside functions, and DeepSpeed for a CPU."""
    import tspo_cli

    for module in pkgutil.walk_packages(tspo_cli.__path__, "tspo_cli."):
        if "__main__" not in module.name and "vllm_worker" not in module.name:
            importlib.import_module(module.name)
    for name in HEAVY:
        importlib.import_module(name)
    importlib.import_module("tspo_cli.training.launch.preload")


def _environments(ranks: int) -> list[dict[str, str]]:
    """What a launcher tells each process."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    common = {"WORLD_SIZE": str(ranks), **address}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(ranks)]


def _kill(children: list[int]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _become(request: dict[str, Any], environment: dict[str, str]) -> NoReturn:
    """Run the command in this forked child, which ends with it."""
    os.environ.clear()
    os.environ.update(request["environment"] | environment)
    os.chdir(request["cwd"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, file in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        opened = os.open(file, os.O_RDONLY if number == 0 else flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["tspo", *request["arguments"]]
    code: object = 1
    try:
        if request["prepare"]:
            module, function, *values = request["prepare"].split(":")
            getattr(importlib.import_module(module), function)(*values)
        runpy.run_module("tspo_cli", run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    # What the interpreter does at its end, without freeing every module, which takes longer.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    # The tests' folder must not be importable in place of the standard library.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    _serve()
