"""A vLLM server for tests, and the ways in which it dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tspo_cli.text.access_token import ENGINE_TOKEN, authorisation

CONTEXT = 700
TOKEN = "the-token-of-the-servers-of-the-tests"


class EngineServer:
    """`tspo engine` in a process group of its own; `more` goes to its command line. All but /health
    needs `token`, if there is one.
    """

    def __init__(self, model: Path, log: Path, *more: object, token: str = TOKEN) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.model, self.log, self.url = model, log, f"http://127.0.0.1:{self.port}"
        self.more, self.token = more, token
        self.process: Any = None

    def start(self) -> None:
        """Start it, with the weights of the beginning; `wait` says when it is ready."""
        options = [
            "--port",
            self.port,
            "--context",
            CONTEXT,
            "--dtype",
            "float32",
            "--kv-cache-gib",
            0.25,
            *self.more,
        ]
        command = [sys.executable, "-m", "tspo_cli", "engine", self.model, *options]
        variables = {**os.environ, ENGINE_TOKEN: self.token}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=variables,
            )

    def wait(self) -> None:
        """Until it answers."""
        while True:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                if httpx.get(self.url + "/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)

    def stop(self) -> None:
        """It does not answer any more, but its connections stay."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stop`."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Without a chance to say goodbye."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def kill_engine(self) -> None:
        """Only the process that computes; the one that answers notices and ends."""
        for child in (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ):
            os.kill(int(child), signal.SIGKILL)
        self.process.wait(timeout=120)

    def sampled_tokens(self) -> float:
        """Tokens that it has generated since its start."""
        lines = httpx.get(
            self.url + "/metrics", headers=authorisation(self.token), timeout=30
        ).text.splitlines()
        return sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith("vllm:generation_tokens_total{")
        )
