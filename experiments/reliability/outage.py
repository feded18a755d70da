"""Trainings and evaluations while their server of passages is away, slow or confused.

    tspo demo --quick
    python -m experiments.reliability.outage [--demo runs/demo] [--only NAME]

Every scenario trains and evaluates the demo's warm start with passages from a server of the demo's
index, which behaves as the scenario says from its third request on. Its scores are compared with
those of a server that behaves well, and a command that ended with exit code 5 is run again with
--resume and a sound server. The table says how it ended, after how many seconds, what share of the
rollouts or questions failed, and the exact match in the end beside the undisturbed one. Batches
have one trajectory, so that the instant at which passages arrive does not change the last bits:
`same` says whether the weights, records and rollouts of a training, or the answers of an
evaluation, are those of the undisturbed server, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine
from experiments.reliability.kills import contents
from tspo_cli.retrieval.index.searcher import Searcher, open_index
from tspo_cli.runs import read_json, read_jsonl, read_jsonl_gz

HEALTHY_REQUESTS = 2
"""The start of a command asks the server before anything is computed."""
Fate = Callable[[float], str]
"""Seconds since the trouble began -> well, 500, 503, html, slow, gone."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`settings` are --set of the commands; `code` is the exit code that is expected."""

    name: str
    fate: Fate
    settings: tuple[str, ...] = ()
    code: int = 0


SCENARIOS = (
    Scenario("well", lambda seconds: "well"),
    Scenario("restart, 12 s", lambda seconds: "gone" if seconds < 12 else "well"),
    Scenario("status 500 for 12 s", lambda seconds: "500" if seconds < 12 else "well"),
    Scenario("HTML with 200 for 12 s", lambda seconds: "html" if seconds < 12 else "well"),
    Scenario("flapping, 2 s of 3", lambda seconds: "503" if seconds % 3 < 2 else "well"),
    Scenario("slow, 1 s an answer", lambda seconds: "slow"),
    Scenario(
        "slow, beyond the timeout",
        lambda seconds: "slow",
        ("retriever.timeout=0.5", "retriever.deadline=10"),
        code=5,
    ),
    Scenario("gone for good", lambda seconds: "gone", code=5),
)


class Server(ThreadingHTTPServer):
    """A server of an index with a fate."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, searcher: Searcher, fate: Fate) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.searcher, self.fate = searcher, fate
        self.requests, self.since = 0, 0.0

    def state(self) -> str:
        """What becomes of a request now."""
        self.requests += 1
        if self.requests <= HEALTHY_REQUESTS:
            return "well"
        self.since = self.since or time.monotonic()
        return self.fate(time.monotonic() - self.since)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_POST(self) -> None:
        """Answer as the fate of the server is."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server.state()
        if state == "gone":
            self.close_connection = True
            return
        if state == "slow":
            time.sleep(1)
        found = self.server.searcher.search(body["queries"], body["topk"])
        lists = [
            [
                {"document": {"id": hit.id, "contents": hit.contents}, "score": hit.score}
                for hit in result.hits
            ]
            for result in found
        ]
        content = json.dumps({"result": lists}) if state in ("well", "slow") else "<html></html>"
        with suppress(OSError):
            self.send_response(int(state) if state.isdigit() else 200)
            self.end_headers()
            self.wfile.write(content.encode())

    def do_GET(self) -> None:
        """It describes nothing."""
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(searcher: Searcher, fate: Fate) -> Iterator[str]:
    """The URL of a server."""
    server = Server(searcher, fate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def tspo(words: list[str]) -> tuple[int, float, str]:
    """Exit code, seconds and last line of messages of a command."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tspo_cli", *words], capture_output=True, text=True, check=False
    )
    lines = done.stderr.strip().splitlines() or [""]
    return done.returncode, time.monotonic() - began, lines[-1]


def command(verb: str, demo: Path, out: Path, url: str, settings: tuple[str, ...]) -> list[str]:
    """A short training, or an evaluation of 40 questions."""
    model, test = demo / "warmstart" / "model", demo / "world" / "test.jsonl"
    if verb == "eval":
        words = ["eval", str(model), "--data", str(test), "--retriever", url, "--limit", "40"]
        words += ["--set", "eval.batch_size=1"]
    else:
        values = {
            "model.path": model,
            "data.train": json.dumps([str(demo / "world" / "train.jsonl")]),
            "eval.data": json.dumps([str(test)]),
            "retriever.index": "",
            "retriever.url": url,
            "train.steps": 3,
            "rollout.questions_per_step": 4,
            "rollout.group_size": 3,
            "rollout.batch_size": 1,
            "eval.limit": 20,
            "eval.batch_size": 1,
            "checkpoint.every": 1,
        }
        words = ["train", "tiny/tspo"]
        words += [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    words += [word for setting in settings for word in ("--set", setting)]
    return [*words, "--out", str(out)]


def exact_match(verb: str, out: Path) -> list[float]:
    """The exact match of every evaluation, by step."""
    pattern = "eval/*/world.json" if verb == "train" else "world.json"
    return [round(read_json(path)["em"], 3) for path in sorted(out.glob(pattern))]


def results(verb: str, out: Path) -> dict[str, Any]:
    """What must not depend on a server's troubles."""
    if verb == "train":
        return contents(out)
    items = read_jsonl_gz(out / "world.items.jsonl.gz") if out.is_dir() else []
    return {item["id"]: (item["answer"], item["em"]) for item in items}


def failed(verb: str, out: Path) -> str:
    """The share of failed rollouts of a training, of failed questions of an evaluation."""
    if verb == "train":
        shares = [row["failed_share"] for row in read_jsonl(out / "metrics.jsonl")]
    else:
        shares = [
            float(item["failed"]) for path in out.glob("*.gz") for item in read_jsonl_gz(path)
        ]
    return f"{sum(shares) / len(shares):.2f}" if shares else "none scored"


def run(scenario: Scenario, verb: str, demo: Path, folder: Path) -> dict[str, Any]:
    """One line of the table."""
    searcher = open_index(demo / "index")
    out = folder / f"{verb}-{SCENARIOS.index(scenario)}"
    with serving(searcher, scenario.fate) as url:
        words = command(verb, demo, out, url, scenario.settings)
        code, seconds, line = tspo(words)
        share = failed(verb, out)
    if code == 5:
        with serving(searcher, SCENARIOS[0].fate) as sound:
            # The URL is part of a training; the sound server takes the old one's place.
            words = [word.replace(url, sound) for word in words]
            again = [*words, "--resume"]
            if verb == "eval" or (out / "checkpoints").exists():
                tspo(again)
            else:
                tspo([*words, "--overwrite"])
    return {
        "scenario": scenario.name,
        "command": verb,
        "exit code": code,
        "as expected": code == scenario.code,
        "seconds": round(seconds),
        "failed": share,
        "em": exact_match(verb, out),
        "same": results(verb, out) == results(verb, folder / f"{verb}-0"),
        "undisturbed em": exact_match(verb, folder / f"{verb}-0"),
        "message": line if code else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for scenario in SCENARIOS:
            if scenario is SCENARIOS[0] or options.only in scenario.name:
                for verb in ("train", "eval"):
                    print(json.dumps(run(scenario, verb, options.demo, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
