"""A long training with a fault every few minutes: the undisturbed weights, and no growth of memory?

    python experiments/reliability/long_run.py --minutes 120 [--every 3] [--latency 0.5] [--json]

Two runs of one experiment train side by side, each with a `tspo serve` of its own that is
`--latency` seconds away. One runs undisturbed. The script kills the other, kills its server of
passages and starts that again later, stops it for a while (SIGSTOP), and lets its writes fail as on
a full disk (RLIMIT_FSIZE). After every end it is resumed. The two runs are compared byte for byte.
Their batches have one trajectory: otherwise the instant at which passages arrive decides which
trajectories decode together, and with that the last bits of their probabilities. Memory is the
resident size of the training, sampled each second: the median of the last quarter of its longest
life against that of the second quarter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
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
from operator import eq
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine
from experiments.reliability.kills import contents, prepare_world, settings
from tspo_cli.runs import METRICS_NAME, read_jsonl

FAULTS = ("kill", "outage", "full disk", "stopped")
ONE_BY_ONE = {"rollout.batch_size": 1, "eval.batch_size": 1}
TSPO = [sys.executable, "-m", "tspo_cli"]
_POLL_SECONDS = 1.0


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


def undisturbed(training: Training) -> None:
    training.start()
    while (code := training.exit_code()) is None:
        time.sleep(_POLL_SECONDS)
    if code:
        raise SystemExit(f"the undisturbed training fails; see {training.log}")


def disturbed(
    training: Training, calm: Training, server: Server, every: float, draw: random.Random
) -> dict[str, Any]:
    """Run a training to its end with a fault about every `every` seconds."""
    began = time.monotonic()
    faults: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    training.start()
    due = time.monotonic() + draw.uniform(0.5, 1.5) * every
    while (code := training.exit_code()) != 0:
        if code is not None:
            codes[code] += 1
            if codes.total() > faults.total() + 3:
                raise SystemExit(f"the disturbed training ends without faults; see {training.log}")
            training.start()
        elif time.monotonic() >= due:
            fault = draw.choice(FAULTS)
            strike(fault, training, server, draw)
            faults[fault] += 1
            record = {
                "minutes": round((time.monotonic() - began) / 60, 1),
                "steps": [len(metrics(one.run)) for one in (training, calm)],
                "same so far": all(map(eq, metrics(training.run), metrics(calm.run))),
                "growth": [round(one.growth(), 2) for one in (training, calm)],
                "faults": dict(faults),
                "exit_codes": dict(codes),
            }
            print(json.dumps(record), file=sys.stderr, flush=True)
            due = time.monotonic() + draw.uniform(0.5, 1.5) * every
        time.sleep(_POLL_SECONDS)
    return {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "faults": dict(faults),
        "exit_codes": {str(code): n for code, n in codes.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=120, help="about as long as the undisturbed training takes"
    )
    parser.add_argument("--every", type=float, default=3, help="minutes between two faults")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds to the server")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        log = work / "log.txt"
        command = [*prepare_world(work, log), *settings(ONE_BY_ONE)]
        index, draw = work / "index", random.Random(options.seed)
        with (
            served(index, work / "server.txt", options.latency) as (_, calm_url),
            served(index, work / "server.txt", options.latency) as (server, url),
        ):
            trial = Training([*command, *retriever(url)], work / "trial", log)
            undisturbed(trial)
            steps = max(20, round(60 * options.minutes / _seconds_per_step(trial.run)))
            command += settings({"train.steps": steps, "checkpoint.every": 10})
            print(f"{steps} steps", file=sys.stderr, flush=True)
            straight = Training([*command, *retriever(calm_url)], work / "straight", log)
            struck = Training([*command, *retriever(url)], work / "struck", work / "struck.txt")
            beside = threading.Thread(target=undisturbed, args=(straight,))
            beside.start()
            found = disturbed(struck, straight, server, 60 * options.every, draw)
            beside.join()
        same = contents(struck.run) == contents(straight.run)
        found |= {
            "machine": machine(),
            "steps": steps,
            "lives": len(struck.lives),
            "identical": same,
            "memory_growth_percent": {
                "undisturbed": round(straight.growth(), 2),
                "disturbed": round(struck.growth(), 2),
            },
            "last_lines": struck.log.read_text(errors="replace").splitlines()[-5:],
        }
    print(json.dumps(found, indent=2) if options.json else _text(found))
    sys.exit(0 if same else 1)


def retriever(url: str) -> list[str]:
    return settings({"retriever.index": "", "retriever.url": url})


def metrics(run: Path) -> list[bytes]:
    path = run / METRICS_NAME
    return path.read_bytes().splitlines() if path.exists() else []


def _seconds_per_step(run: Path) -> float:
    steps = read_jsonl(run / "timings.jsonl")
    assert len(steps) == len(read_jsonl(run / METRICS_NAME))
    return statistics.median(step["total"] for step in steps)


def _text(found: dict[str, Any]) -> str:
    faults = ", ".join(f"{count} {fault}" for fault, count in found["faults"].items())
    growth = found["memory_growth_percent"]
    return (
        f"{found['machine']}\n{found['minutes']} minutes, {found['steps']} steps, "
        f"{found['lives']} lives; faults: {faults}\n"
        f"same weights and records as undisturbed: {'yes' if found['identical'] else 'NO'}\n"
        f"memory growth: {growth['undisturbed']} % undisturbed, {growth['disturbed']} % disturbed"
    )


if __name__ == "__main__":
    main()
