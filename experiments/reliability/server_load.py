"""A server of passages under load: many clients, slow and broken ones among them.

    python experiments/reliability/server_load.py [--clients 1000] [--requests 100000]

`tspo serve` runs as its own process on an index of a small world. Of the clients, one in twenty
sends its request in slow pieces and one in twenty sends a broken one: no HTTP, a body that ends
early, no JSON, a wrong field, or it goes away without reading. The others ask and check the answer.
Then every limit is tried at its last allowed value and one beyond. No answer may be a 5xx; the
memory of the server is compared after a tenth of the requests and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from experiments.benchmarks.common import machine
from tspo_cli.retrieval.index.build_index import build_index

K = 3
BROKEN = (
    b"this is no HTTP\r\n\r\n",
    b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{",
    b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nnot JSON!",
    b'POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 22\r\n\r\n{"query":"a","topK":3}',
    b"GET /retrieve HTTP/1.1\r\nHost: x\r\n\r\n",
)


@contextmanager
def server(index: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`tspo serve` as a process, and its URL."""
    command = [sys.executable, "-m", "tspo_cli", "serve", str(index), "--port", "0", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the server ended before it was ready")
            text += line
        yield process, str(json.loads(text)["url"])
    finally:
        process.terminate()
        process.wait(30)


def resident(process: subprocess.Popen[str]) -> int:
    """Resident memory of a process in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")
    )


def request(queries: list[str]) -> bytes:
    body = json.dumps({"queries": queries, "topk": K, "return_scores": True}).encode()
    head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    return int(head[9:12]), await reader.readexactly(int(fields.get(b"content-length", b"0")))


async def client(
    number: int, port: int, numbers: Iterator[int], total: int, words: list[str], seen: Counter[str]
) -> None:
    """Send requests until `total` have been sent by all."""
    draw = random.Random(number)
    kind = {0: "slow", 1: "broken"}.get(number % 20, "sound")
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while next(numbers) < total:
        try:
            if streams is None:
                streams = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = streams
            queries = [" ".join(draw.sample(words, 3)) for _ in range(draw.choice((1, 1, 4)))]
            if kind == "broken":
                writer.write(draw.choice((*BROKEN, request(queries))))
                if draw.random() < 0.5:  # it goes away
                    writer.close()
                    streams = None
                    seen["broken: gone"] += 1
                    continue
                writer.write_eof()
            elif kind == "slow":
                whole = request(queries)
                for at in range(0, len(whole), len(whole) // 5 + 1):
                    writer.write(whole[at : at + len(whole) // 5 + 1])
                    await asyncio.sleep(draw.uniform(0, 0.2))
            else:
                writer.write(request(queries))
            status, body = await answer(reader)
            seen[f"{kind}: {status}"] += 1
            if status == 200 and kind != "broken":
                seen["right"] += len(json.loads(body)["result"]) == len(queries)
        except (OSError, asyncio.IncompleteReadError):
            seen[f"{kind}: closed by the server"] += 1
            streams = None
        else:
            if kind == "broken":
                writer.close()
                streams = None
    if streams is not None:
        streams[1].close()


async def load(port: int, clients: int, total: int, words: list[str]) -> Counter[str]:
    """What became of `total` requests of `clients` clients."""
    seen: Counter[str] = Counter()
    numbers = itertools.count()
    await asyncio.gather(
        *(client(number, port, numbers, total, words, seen) for number in range(clients))
    )
    return seen


def limits(url: str) -> dict[str, list[int]]:
    """The statuses at the last allowed value of every limit, and one beyond."""

    def post(body: bytes, headers: dict[str, str] | None = None) -> int:
        return httpx.post(
            f"{url}/retrieve", content=body, headers=headers, trust_env=False, timeout=60
        ).status_code

    def body(**fields: Any) -> bytes:
        return json.dumps(fields).encode()

    small = body(query="a")
    known = sum(
        len(name) + len(value) + 4
        for name, value in httpx.Request("POST", url, content=small).headers.raw
    )
    defaults = httpx.Client().headers.raw
    known += sum(len(name) + len(value) + 4 for name, value in defaults)
    room = (64 << 10) - known - len("/retrieve") - len("x: \r\n")
    bodies = {
        "topk 100": [body(query="a", topk=k) for k in (100, 101)],
        "1,024 queries": [body(queries=["a"] * n) for n in (1024, 1025)],
        "32,768 characters": [body(query="a" * n) for n in (32_768, 32_769)],
        "8 MiB": [small + b" " * ((8 << 20) + more - len(small)) for more in (0, 1)],
    }
    found = {name: [post(one) for one in pair] for name, pair in bodies.items()}
    found["64 KiB of head"] = [post(small, {"x": "a" * (room + more)}) for more in (0, 1)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        words = [f"word{number}" for number in range(12)]
        draw = random.Random(0)
        with open(root / "corpus.jsonl", "w", encoding="utf-8") as corpus:
            for number in range(5000):
                text = " ".join(draw.choices(words, k=40))
                corpus.write(json.dumps({"id": str(number), "contents": f'"T"\n{text}'}) + "\n")
        build_index(root / "corpus.jsonl", root / "index")
        with server(root / "index") as (process, url):
            port = int(url.rsplit(":", 1)[1].split("/")[0])
            first = asyncio.run(load(port, options.clients, options.requests // 10, words))
            before, started = resident(process), time.monotonic()
            rest = options.requests - options.requests // 10
            seen = asyncio.run(load(port, options.clients, rest, words))
            seconds = time.monotonic() - started
            after = resident(process)
            record = {
                "clients": options.clients,
                "requests": options.requests,
                "seconds": round(seconds, 1),
                "answers": dict(sorted((first + seen).items())),
                "server errors": sum(
                    count for name, count in (first + seen).items() if ": 5" in name
                ),
                "memory before": before,
                "memory after": after,
                "growth": round(after / before - 1, 4),
                "limits": limits(url.rsplit("/retrieve", 1)[0]),
                "machine": machine(),
            }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
