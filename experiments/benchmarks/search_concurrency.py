"""Rollouts against a slow retriever: how the agent loop waits for passages.

    python experiments/benchmarks/search_concurrency.py [--latencies 0.7] [--ways merged] [--json]

320 rollouts, 256 of them in flight, 4 searches and an answer each. The engine is simulated: a step
takes 18 ms and decodes one token of every running action; an action has 60 to 170 tokens. The
retriever is simulated too: a request takes the latency, whatever the number of its queries. The
agent loop is the real one. Three ways to send the searches that one engine step has finished:

    merged       as the loop does: one request per free connection (64), which takes all that waits
    64 threads   one request at once for the searches of each step, at most 64 under way; no merging
    8 threads    the same with 8: what the loop did up to commit 61e7cac
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from unittest.mock import patch

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.console import agreeing, counted
from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult
from tspo_cli.rollout.agent import Agent, AgentSettings, Task, run_agents
from tspo_cli.rollout.engines.endpoint.word_tokenizer import WordTokenizer
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling
from tspo_cli.rollout.protocol import STOP_STRINGS, SearchProtocol, answer_action, search_action
from tspo_cli.rollout.search_requests import SearchRequests
from tspo_cli.rollout.trajectory import GroupId

STEP_SECONDS = 0.018
LATENCIES = (0.1, 0.3, 0.7, 1.5)
WAYS = {"merged": 64, "64 threads": 64, "8 threads": 8}


@dataclass
class SimulatedEngine:
    """Every step takes `STEP_SECONDS` and one token of each running request. A rollout searches
    `searches` times, then answers; the tokens of its actions depend on its session alone.
    """

    tokenizer: WordTokenizer
    searches: int
    weight_version: int = 0
    owns_weights: bool = True
    left: dict[int, int] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)

    def submit(self, request: GenerationRequest) -> None:
        turn = self.turns[request.session] = self.turns.get(request.session, -1) + 1
        self.left[request.session] = random.Random(f"{request.session}-{turn}").randint(60, 170)

    def step(self) -> list[Completion]:
        if not self.left:
            return []
        time.sleep(STEP_SECONDS)
        self.left = {session: tokens - 1 for session, tokens in self.left.items()}
        ended = [session for session, tokens in self.left.items() if tokens == 0]
        return [self._action(session) for session in ended]

    def _action(self, session: int) -> Completion:
        del self.left[session]
        last = self.turns[session] == self.searches
        text = answer_action("so", "Bako") if last else search_action("who", f"river {session}")
        ids = tuple(self.tokenizer(text)["input_ids"])
        return Completion(session, ids, (-0.5,) * len(ids), "stop", 0)

    def release(self, session: int) -> None:
        self.left.pop(session, None)

    def load_weights(self, weights: Mapping[str, Any] | None, version: int) -> None: ...

    def different_weight(self, weights: Mapping[str, Any]) -> str | None:
        return None

    def sleep(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class SimulatedRetriever:
    """Answers every request after `latency` seconds, and notes their sizes."""

    latency: float
    blocking: bool = True
    sizes: list[int] = field(default_factory=list)
    most: int = 0
    under_way: int = 0
    lock: Lock = field(default_factory=Lock)

    def describe(self) -> RetrieverInfo:
        return RetrieverInfo()

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        with self.lock:
            self.sizes.append(len(queries))
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(self.latency)
        with self.lock:
            self.under_way -= 1
        hit = Hit("1", '"Rimu"\na river in Bako', 1.0)
        return [SearchResult((hit,)) for _ in queries]


class UnmergedRequests(SearchRequests):
    """The control: the searches of one engine step stay a request of their own, which waits for
    one of the threads.
    """

    def send(self) -> None:
        """Give what one step has finished to the pool, whose threads take one request each."""
        connections, self.connections = self.connections, 10**9
        super().send()
        self.connections = connections


def measure(way: str, latency: float, rollouts: int, in_flight: int, searches: int) -> dict:
    """Wall seconds of all rollouts, requests, queries a request, and most requests at once."""
    tokenizer = WordTokenizer()
    protocol = SearchProtocol.from_config(tokenizer, RolloutConfig(prompt="short"))
    prompt = tuple(protocol.prompt_ids("who is Bako?"))
    tasks = [
        Task(Question(str(n), "who?", ("Bako",), "x"), GroupId("x", str(n), 0), 0, prompt, n)
        for n in range(rollouts)
    ]
    settings = AgentSettings(
        Sampling(max_new_tokens=200, stop=STOP_STRINGS),
        searches,
        k=3,
        in_flight=in_flight,
        turn_deadline=600.0,
        connections=WAYS[way],
    )
    retriever = SimulatedRetriever(latency)
    agent = Agent(SimulatedEngine(tokenizer, searches), retriever, protocol, settings)
    requests = SearchRequests if way == "merged" else UnmergedRequests
    started = time.perf_counter()
    with patch("tspo_cli.rollout.agent.SearchRequests", requests):
        found = run_agents(tasks, agent)
    seconds = time.perf_counter() - started
    assert all(trajectory.answer == "Bako" for trajectory in found), "a rollout failed"
    return {
        "way": way,
        "latency": latency,
        "seconds": round(seconds, 1),
        "requests": len(retriever.sizes),
        "queries": round(statistics.mean(retriever.sizes), 1),
        "at_once": retriever.most,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latencies", type=float, nargs="+", default=LATENCIES)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rollouts", type=int, default=320)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--searches", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for latency in options.latencies:
        for way in options.ways:
            row = measure(way, latency, options.rollouts, options.in_flight, options.searches)
            rows.append(row)
            if not options.json:
                print(
                    f"{latency:g} s a request, {way}: {row['seconds']} s, "
                    f"{counted(row['requests'], 'request')} of "
                    f"{agreeing(row['queries'], 'query', 'queries')}, {row['at_once']} at once",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
