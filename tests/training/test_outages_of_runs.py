"""Training and evaluation while their retriever fails: no score, no best policy, no lost run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.retrieval.index.searcher import Searcher, open_index
from tspo_cli.runs import read_json, read_jsonl, read_jsonl_gz

pytestmark = pytest.mark.slow
Tspo = Callable[..., Finished]


@dataclass
class Fickle:
    """A server of an index. `behave` gets the number of a request and its queries, and says what
    becomes of it: a status, "hang", or for each query whether its hits are malformed.
    """

    url: str
    behave: Callable[[int, list[str]], Any] = lambda number, queries: 200
    requests: int = 0
    hanging: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def fickle(playground: Playground) -> Iterator[Fickle]:
    searcher: Searcher = open_index(playground.index)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests += 1
            fate = server.behave(server.requests, body["queries"])
            if fate == "hang":
                server.hanging.set()
                server.released.wait(60)
            found = searcher.search(body["queries"], body["topk"])
            lists: list[Any] = [
                [
                    {"document": {"id": hit.id, "contents": hit.contents}, "score": hit.score}
                    for hit in result.hits
                ]
                for result in found
            ]
            if isinstance(fate, list):
                lists = [None if bad else hits for hits, bad in zip(lists, fate, strict=True)]
            self.send_response(fate if isinstance(fate, int) else 200)
            self.end_headers()
            with suppress(OSError):  # the client may have ended
                self.wfile.write(json.dumps({"result": lists}).encode())

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Fickle(f"http://127.0.0.1:{http.server_address[1]}")
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}).start()
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()


def training(playground: Playground, url: str, **more: object) -> list[str]:
    values = {
        "retriever__index": "",
        "retriever__url": url,
        "retriever__deadline": 1.0,
        "train__steps": 2,
        "checkpoint__every": 1,
        "eval__every": 2,
        **more,
    }
    return ["tiny/tspo", *playground.settings(**values)]


def test_an_outage_during_an_evaluation_is_no_score(
    playground: Playground, tspo: Tspo, fickle: Fickle, tmp_path: Path
) -> None:
    run, words = tmp_path / "run", training(playground, fickle.url)
    fickle.behave = lambda number, queries: 200 if number < 3 else 503
    done = run_tspo("train", *words, "--out", run)
    assert done.code == 5, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert f"retriever {fickle.url}/retrieve: status 503; waited 1 s" in line
    assert "start the server, then go on with --resume" in line
    assert not (run / "best").exists()
    assert not list(run.glob("eval/**/*.json"))
    assert read_json(run / "status.json")["state"] == "failed"
    fickle.behave = lambda number, queries: 503 if number % 3 else 200
    tspo("train", *words, "--set", "retriever.deadline=60", "--out", run, "--resume")
    for step in ("step_000000", "step_000002"):
        assert read_json(run / "eval" / step / "world.json")["failed"] == 0
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2]
    assert read_json(run / "best" / "best.json")["metric"]
    assert all(row["failed_share"] == 0 for row in read_jsonl(run / "metrics.jsonl"))


def test_failed_questions_of_an_evaluation_are_said_and_asked_again(
    playground: Playground, tspo: Tspo, fickle: Fickle, tmp_path: Path
) -> None:
    """Some answers cannot be read, of a server that answers: that is the evaluation's to report."""
    data = playground.world / "test.jsonl"
    words = ["eval", playground.model, "--data", data, "--retriever", fickle.url, "--method", "rag"]
    words += ["--limit", 8, "--set", "rollout.max_new_tokens=8"]
    out = tmp_path / "out"
    bad = {question["question"] for question in list(read_jsonl(data))[1:4]}
    fickle.behave = lambda number, queries: [query in bad for query in queries]
    done = tspo(*words, "--out", out, "--json")
    (scores,) = json.loads(done.out)["results"]
    assert scores["failed"] == 3
    assert "warning: world: 3 of 8 questions count as wrong" in done.err
    assert "--resume asks them again" in done.err
    items = list(read_jsonl_gz(out / "world.items.jsonl.gz"))
    assert [item["failed"] for item in items] == [False, True, True, True, *[False] * 4]
    assert "cannot read its hits" in items[1]["trajectory"]["turns"][0]["search_error"]
    report = tspo("report", out)
    assert "failed for 3 of 8 questions" in report.out + report.err
    fickle.behave = lambda number, queries: 200
    (again,) = json.loads(tspo(*words, "--out", out, "--resume", "--json").out)["results"]
    assert again["failed"] == 0
    whole = tmp_path / "whole"
    tspo(*words, "--out", whole)
    for name in ("world.items.jsonl.gz", "world.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert "already evaluated" in tspo(*words, "--out", out, "--resume").err


def test_a_server_that_fails_every_question_ends_the_evaluation(
    playground: Playground, fickle: Fickle, tmp_path: Path
) -> None:
    fickle.behave = lambda number, queries: [len(query) > 20 for query in queries]
    words = ["eval", playground.model, "--retriever", fickle.url, "--method", "rag", "--limit", 12]
    done = run_tspo(*words, "--data", playground.world / "test.jsonl", "--out", tmp_path / "out")
    assert done.code == 5, done.err
    assert "no search was answered" in done.err
    assert not (tmp_path / "out" / "world.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_whose_search_hangs(
    playground: Playground, fickle: Fickle, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    fickle.behave = lambda number, queries: 200 if number < 3 else "hang"
    run = tmp_path / "run"
    words = training(playground, fickle.url, retriever__deadline=100)
    process = subprocess.Popen(
        [sys.executable, "-m", "tspo_cli", "train", *map(str, words), "--out", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert fickle.hanging.wait(120)
    time.sleep(0.3)
    start = time.monotonic()
    process.send_signal(number)
    if number == signal.SIGTERM:
        time.sleep(0.02)
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert time.monotonic() - start < 5
    assert "Traceback" not in errors
    assert read_json(run / "status.json")["state"] == "stopped"
