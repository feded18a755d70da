"""How long a step's rollouts take when questions are dealt in advance or taken when there is room.

    python experiments/benchmarks/question_schedule.py [--in-flight 64] [--json]

2,560 rollouts (320 questions of 8) by 8 processes. The engine is simulated: a step takes 18 ms and
decodes one token of every running rollout. Rollouts of a question have a mean length of their own
(log-normal, median 250 tokens, sigma 0.5) and vary by a quarter around it. The
processes are threads; the agent loop, queues and store are the real ones. Expected lengths are
unknown (a first epoch) or those of an earlier draw.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.distributed import HashStore

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.data.question import Question
from tspo_cli.rollout.agent import Agent, AgentSettings, RolloutHooks, Task, run_agents
from tspo_cli.rollout.engines.endpoint.word_tokenizer import WordTokenizer
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling
from tspo_cli.rollout.protocol import STOP_STRINGS, SearchProtocol, answer_action
from tspo_cli.training.rl.question_batches import BatchQuestion
from tspo_cli.training.rl.sharing import ExpectedLengths, SharedQuestions, dealt

STEP_SECONDS = 0.018
PROCESSES, QUESTIONS, GROUP = 8, 320, 8
WAYS = ("static", "dynamic, lengths unknown", "dynamic, lengths known")


def tokens_of(question: int, sample: int, draw: int = 1) -> int:
    """The length of a rollout."""
    mean = 250 * random.Random(f"q{question}").lognormvariate(0, 0.5)
    return max(1, round(mean * random.Random(f"{question}-{sample}-{draw}").uniform(0.75, 1.25)))


@dataclass
class SimulatedEngine:
    """Every step takes `STEP_SECONDS` and one token of each running request, whose seed says how
    many it has.
    """

    answer: tuple[int, ...]
    weight_version: int = 0
    owns_weights: bool = True
    left: dict[int, int] = field(default_factory=dict)

    def submit(self, request: GenerationRequest) -> None:
        self.left[request.session] = tokens_of(*divmod(request.seed, GROUP))

    def step(self) -> list[Completion]:
        time.sleep(STEP_SECONDS)
        self.left = {session: tokens - 1 for session, tokens in self.left.items()}
        ended = [session for session, tokens in self.left.items() if tokens == 0]
        for session in ended:
            del self.left[session]
        logprobs = (-0.5,) * len(self.answer)
        return [Completion(session, self.answer, logprobs, "stop", 0) for session in ended]

    def release(self, session: int) -> None:
        self.left.pop(session, None)

    def load_weights(self, weights: Mapping[str, Any] | None, version: int) -> None: ...

    def different_weight(self, weights: Mapping[str, Any]) -> str | None:
        return None

    def sleep(self) -> None: ...

    def close(self) -> None: ...


def measure(way: str, in_flight: int) -> dict[str, Any]:
    """Seconds of every process until it has no rollout left; all wait for the last."""
    tokenizer = WordTokenizer()
    protocol = SearchProtocol.from_config(tokenizer, RolloutConfig(prompt="short"))
    prompt = tuple(protocol.prompt_ids("who?"))
    batch = [
        BatchQuestion(Question(str(number), "who?", ("Bako",), "x"), 0, number)
        for number in range(QUESTIONS)
    ]
    lengths = ExpectedLengths()
    if way.endswith("lengths known"):
        for number in range(QUESTIONS):
            earlier = [tokens_of(number, sample, draw=0) for sample in range(GROUP)]
            lengths.tokens["x", str(number)] = sum(earlier) / GROUP
    ordered = batch if way == "static" else lengths.longest_first(batch)
    store, ends = HashStore(), [0.0] * PROCESSES
    settings = AgentSettings(Sampling(stop=STOP_STRINGS), 0, k=3, in_flight=in_flight)
    answer = tuple(tokenizer(answer_action("so", "Bako"))["input_ids"])

    def tasks(drawn: BatchQuestion) -> list[Task]:
        first = drawn.position * GROUP
        return [
            Task(drawn.question, drawn.group, sample, prompt, first + sample)
            for sample in range(GROUP)
        ]

    shares = [SharedQuestions(dealt(ordered, PROCESSES), n, store) for n in range(PROCESSES)]
    made: list[int] = []

    def work(number: int) -> None:
        agent = Agent(SimulatedEngine(answer), None, protocol, settings)
        shares[number].name = "batch"

        def more() -> list[Task]:
            drawn = shares[number].take()
            return tasks(drawn) if drawn is not None else []

        if way == "static":
            own = [task for drawn in batch[number::PROCESSES] for task in tasks(drawn)]
            done = run_agents(own, agent)
        else:
            done = run_agents([], agent, RolloutHooks(more=more))
        made.append(len(done))
        ends[number] = time.perf_counter() - started

    threads = [threading.Thread(target=work, args=(number,)) for number in range(PROCESSES)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == QUESTIONS * GROUP, "a rollout is missing"
    return {
        "way": way,
        "seconds": round(max(ends), 1),
        "mean": round(sum(ends) / PROCESSES, 1),
        "first": round(min(ends), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in-flight", type=int, default=64, help="rollouts at once, by process")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for way in WAYS:
        rows.append(measure(way, options.in_flight))
        if not options.json:
            row = rows[-1]
            ends = f"processes end after {row['first']} to {row['seconds']} s"
            print(f"{way}: {row['seconds']} s, {ends}", flush=True)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
