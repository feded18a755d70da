"""A process that has imported tspo once and forks a child for every command of the tests.

Starting Python and importing torch, transformers and DeepSpeed takes longer than most commands do.
A child has the process's imports, and what the first use of a library makes for all later ones
(`_warm_up`); its environment, folder, output and exit code are its own, as those of a new process.
"""

from __future__ import annotations

import atexit
import functools
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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

HEAVY = (
    "transformers.models.qwen2.modeling_qwen2",
    "scipy.stats",
    "matplotlib.pyplot",
    "datasets",
    # DeepSpeed imports them for its first engine, and the compiler of torch for its first ZeRO.
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.zero.muon.muon_optimizer",
)
MODEL = Path(__file__).parent / "fixtures" / "run_0_1_0" / "start" / "model"


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
        return self._ask(
            **_described(arguments, cwd, out, err), timeout=timeout, prepare=prepare, ranks=ranks
        )

    def start(self, arguments: list[str], *, cwd: Path | None, out: Path, err: Path) -> int:
        """Start `tspo ARGUMENTS`; returns its process id. `poll` has to be called to its end."""
        (pid,) = self._ask(**_described(arguments, cwd, out, err), prepare="", ranks=1, timeout=0)
        return pid

    def poll(self, pid: int) -> int | None:
        """Exit code of a started process that has ended, else None. Asked once after its end."""
        codes = self._ask(poll=pid)
        return codes[0] if codes else None

    def _ask(self, **request: Any) -> list[int]:
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
                return [int(number) for number in json.loads(self.process.stdout.readline())]
            except BaseException:  # the test's time is over: the answer would be the next one's
                self.process.kill()
                self.process = None
                raise

    def close(self) -> None:
        """End the process."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def _described(arguments: list[str], cwd: Path | None, out: Path, err: Path) -> dict[str, Any]:
    return {
        "arguments": arguments,
        "cwd": str(cwd or Path.cwd()),
        "environment": dict(os.environ),
        "out": str(out),
        "err": str(err),
    }


def can_fork() -> bool:
    """True where importing torch leaves a process that may fork: not with CUDA, not with vLLM."""
    import torch

    return torch.version.cuda is None and importlib.util.find_spec("vllm") is None


def _serve() -> None:
    gc.disable()  # a tenth of the time of the imports, which all stay
    _import_everything()
    _warm_up()
    gc.collect()
    gc.freeze()
    gc.enable()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = [os.waitstatus_to_exitcode(status)] if pid else []
        else:
            answer = _forked(request)
            if request["timeout"]:
                answer = _exit_codes(answer, request["timeout"])
        print(json.dumps(answer), flush=True)
    os._exit(0)


def _forked(request: dict[str, Any]) -> list[int]:
    children = []
    for environment in _environments(request["ranks"]):
        children.append(os.fork())
        if children[-1] == 0:
            _become(request, environment)
    return children


def _exit_codes(children: list[int], timeout: float) -> list[int]:
    limit = threading.Timer(timeout, _kill, (children,))
    limit.start()
    statuses = [os.waitpid(child, 0)[1] for child in children]
    limit.cancel()
    limit.join()
    return [os.waitstatus_to_exitcode(status) for status in statuses]


def _import_everything() -> None:
    """All modules of the package, what it imports inside functions, and DeepSpeed for a CPU."""
    import tspo_cli

    for module in pkgutil.walk_packages(tspo_cli.__path__, "tspo_cli."):
        if "__main__" not in module.name and "vllm_worker" not in module.name:
            importlib.import_module(module.name)
    importlib.import_module("tspo_cli.training.launch.preload")
    for name in HEAVY:
        with suppress(ModuleNotFoundError):  # another version of DeepSpeed
            importlib.import_module(name)


def _warm_up() -> None:
    """What every command would make again: the command line, the configuration's keys, and the
    tables that transformers reads models with.
    """
    import typer.main

    from tspo_cli.commands.app import app
    from tspo_cli.config.load_config import load_config
    from tspo_cli.models.load_model import load_model, load_tokenizer

    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(app)
    load_config(["tiny/grpo"], [])
    load_model(MODEL)
    load_tokenizer(MODEL)


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

    def work() -> None:
        if request["prepare"]:
            module, function, *values = request["prepare"].split(":")
            getattr(importlib.import_module(module), function)(*values)
        runpy.run_module("tspo_cli", run_name="__main__")

    end_after(work)


def end_after(work: Callable[[], object]) -> NoReturn:
    """Do what this forked process is for, and end it with the exit code that Python would have."""
    code: object = 1
    try:
        work()
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
