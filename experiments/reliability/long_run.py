"""A long training with a fault every few minutes: the undisturbed weights, and no growth of memory?

    python experiments/reliability/long_run.py --minutes 120 [--every 3] [--latency 0.3] [--json]

Two runs of one experiment train side by side for `--minutes`, each with a `tspo serve` of its own
that is `--latency` seconds away. One runs undisturbed. The script kills the other, kills its server
of passages and starts that again later, stops it for a while (SIGSTOP), and lets its writes fail as
on a full disk (RLIMIT_FSIZE). After every end it is resumed. At the end both are stopped, and what
both have is compared byte for byte: the metrics, rollouts, evaluations and checkpoints (weights and
moments) up to the last step of the slower one. Batches have one trajectory: otherwise the instant
at which passages arrive decides which trajectories decode together, and with that the last bits of
their probabilities. Memory is the resident size of the training, sampled each second: the median of
the last quarter of its longest life against that of the second quarter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine
from experiments.reliability.kills import prepare_world, settings
from tspo_cli.console import agreeing, counted
from tspo_cli.digests import file_digest
from tspo_cli.runs import METRICS_NAME

FAULTS = ("kill", "outage", "full disk", "stopped")
WARM_START_STEPS = 300
"""Enough for a policy that searches, so that outages are noticed."""
CHANGES = {
    "rollout.batch_size": 1,
    "eval.batch_size": 1,
    "eval.every": 20,
    "optimizer.lr": 2e-6,  # it goes on searching
    "train.steps": 10**6,
    "checkpoint.every": 20,
    "checkpoint.keep": 10**6,
}
TSPO = [sys.executable, "-m", "tspo_cli"]
_POLL_SECONDS = 1.0
_STEP = re.compile(r"\d+")


@dataclass
class Server:
    """`tspo serve` on a port of its own, which can be killed and started again."""

    index: Path
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*TSPO, "serve", str(self.index), "--port", str(self.port)], stderr=log, stdout=log
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class Training:
    """`tspo train` of one run, started again until it finishes."""

    command: list[str]
    run: Path
    log: Path
    lives: list[list[float]] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        resume = ["--resume"] if self.lives else []
        self.lives.append([])
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*TSPO, *self.command, "--out", str(self.run), *resume], stderr=log, stdout=log
            )

    def exit_code(self) -> int | None:
        """The exit code once it has ended; until then its memory is sampled."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            self.lives[-1].append(_resident_mb(self.process.pid))
        return code

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait()

    def growth(self) -> float:
        """Percent, in its longest life."""
        longest = max(self.lives, key=len)
        quarter = len(longest) // 4
        if not quarter:
            return 0.0
        before = statistics.median(longest[quarter : 2 * quarter])
        return 100 * (statistics.median(longest[-quarter:]) / before - 1)


def _resident_mb(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / 1e6


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def served(index: Path, log: Path, latency: float) -> Iterator[tuple[Server, str]]:
    """A server of `index`, and the URL under which it is `latency` seconds away."""
    server, far = Server(index, log, free_port()), free_port()
    relay = threading.Thread(target=asyncio.run, args=(delay(far, server.port, latency),))
    relay.daemon = True
    relay.start()
    server.start()
    try:
        yield server, f"http://127.0.0.1:{far}"
    finally:
        server.kill()


async def delay(port: int, server_port: int, seconds: float) -> None:
    """Pass what arrives on `port` on to `server_port`, `seconds` later; answers return at once."""

    async def pump(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float
    ) -> None:
        try:
            while data := await source.read(65536):
                await asyncio.sleep(seconds)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer, request = await asyncio.open_connection("127.0.0.1", server_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, request, seconds), pump(answer, writer, 0))

    async with await asyncio.start_server(connect, "127.0.0.1", port) as relay:
        await relay.serve_forever()


def strike(fault: str, training: Training, server: Server, draw: random.Random) -> None:
    """Make one fault happen; returns when what caused it is over."""
    assert training.process is not None
    pid = training.process.pid
    if fault == "kill":
        training.process.kill()
    elif fault == "outage":
        server.kill()
        time.sleep(draw.uniform(1, 30))
        server.start()
    elif fault == "stopped":
        os.kill(pid, signal.SIGSTOP)
        time.sleep(draw.uniform(1, 20))
        os.kill(pid, signal.SIGCONT)
    else:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, 1000))


def side_by_side(
    struck: Training, calm: Training, server: Server, seconds: float, every: float, seed: int
) -> dict[str, Any]:
    """Run both for a time; one of them has a fault about every `every` seconds."""
    draw = random.Random(seed)
    faults: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    began = time.monotonic()
    calm.start()
    struck.start()
    due = began + draw.uniform(0.5, 1.5) * every
    while time.monotonic() < began + seconds:
        if calm.exit_code() is not None:
            raise SystemExit(f"the undisturbed training ends; see {calm.log}")
        if (code := struck.exit_code()) is not None:
            codes[code] += 1
            if codes.total() > faults.total() + 3:
                raise SystemExit(f"the disturbed training ends without faults; see {struck.log}")
            struck.start()
        elif time.monotonic() >= due:
            fault = draw.choice(FAULTS)
            strike(fault, struck, server, draw)
            faults[fault] += 1
            print(json.dumps(state(struck, calm) | dict(faults)), file=sys.stderr, flush=True)
            due = time.monotonic() + draw.uniform(0.5, 1.5) * every
        time.sleep(_POLL_SECONDS)
    found = {"minutes": round((time.monotonic() - began) / 60, 1)}
    ends = [training.stop() for training in (struck, calm)]
    return {
        **found,
        "faults": dict(faults),
        "exit_codes": {str(code): n for code, n in codes.items()},
        "stopped_with": ends,
        "lives": len(struck.lives),
        **state(struck, calm),
    }


def state(struck: Training, calm: Training) -> dict[str, Any]:
    """How far both are, and whether what both have is the same."""
    found = [comparable(training.run) for training in (struck, calm)]
    common = sorted(set(found[0]) & set(found[1]))
    differ = [name for name in common if found[0][name] != found[1][name]]
    return {
        "steps": [sum(name.startswith("metrics") for name in one) for one in found],
        "checkpoints_compared": sum(name.endswith("state.json") for name in common),
        "files_compared": sum(not name.startswith("metrics") for name in common),
        "identical": bool(common) and not differ,
        "differ": differ[:3],
        "growth_percent": [round(training.growth(), 2) for training in (struck, calm)],
    }


def comparable(run: Path) -> dict[str, str]:
    """Digests of the lines of the metrics, and of the files of the steps that these cover."""
    path = run / METRICS_NAME
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = {f"metrics, step {n}": line.hex() for n, line in enumerate(lines, start=1)}
    for pattern in ("rollouts/*", "eval/step_*/*", "checkpoints/step_*/*"):
        for file in run.glob(pattern):
            name = str(file.relative_to(run))
            step = _STEP.search(name)
            if step is not None and int(step[0]) <= len(lines):
                found[name] = file_digest(file)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--every", type=float, default=3, help="minutes between two faults")
    parser.add_argument("--latency", type=float, default=0.3, help="seconds to the server")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        command = prepare_world(work, work / "log.txt", WARM_START_STEPS)
        command += settings(CHANGES)
        index, log = work / "index", work / "server.txt"
        with (
            served(index, log, options.latency) as (_, calm_url),
            served(index, log, options.latency) as (server, url),
        ):
            calm = Training([*command, *retriever(calm_url)], work / "calm", work / "calm.txt")
            struck = Training([*command, *retriever(url)], work / "struck", work / "struck.txt")
            minutes, every = 60 * options.minutes, 60 * options.every
            found = side_by_side(struck, calm, server, minutes, every, options.seed)
    found["machine"] = machine()
    print(json.dumps(found, indent=2) if options.json else _text(found))
    sys.exit(0 if found["identical"] else 1)


def retriever(url: str) -> list[str]:
    return settings({"retriever.index": "", "retriever.url": url})


def _text(found: dict[str, Any]) -> str:
    faults = ", ".join(f"{count} {fault}" for fault, count in found["faults"].items())
    steps, growth = found["steps"], found["growth_percent"]
    return (
        f"{found['machine']}\n{found['minutes']} minutes, "
        f"{agreeing(found['lives'], 'life', 'lives')}\n"
        f"faults: {faults}\n"
        f"steps: {steps[0]} disturbed, {steps[1]} undisturbed\n"
        "same metrics, rollouts, evaluations, "
        f"{counted(found['checkpoints_compared'], 'checkpoint')}: "
        f"{'yes' if found['identical'] else 'NO'}\n"
        f"memory growth: {growth[0]} % disturbed, {growth[1]} % undisturbed"
    )


if __name__ == "__main__":
    main()
