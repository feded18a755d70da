"""CPU seconds to score an evaluation, from finished trajectories to the comparison with a baseline.

    python experiments/benchmarks/evaluation_scoring.py [--items 10000] [--json]

Two methods answer the same questions, which belong to seven data sets. Each trajectory has three
searches of three passages of 100 words. Timed separately: the metrics of all items of one method,
its means with intervals, and the comparison of both methods (permutation tests, McNemar, Holm).
CPU seconds of one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from tspo_cli.console import counted
from tspo_cli.data.question import Question
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.metrics import item_record, summarize
from tspo_cli.evaluation.statistics.paired_tests import compare_sets
from tspo_cli.evaluation.summary import averages, with_intervals
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn

SETS = 7
WORDS = [
    f"{first}{second}"
    for first in ("ba", "ko", "ri", "mu", "te")
    for second in ("lan", "der", "sia", "tun", "vo")
]


def passage(rng: random.Random, number: int) -> Hit:
    """A title and 100 words."""
    return Hit(str(number), f'"{rng.choice(WORDS)}"\n{" ".join(rng.choices(WORDS, k=100))}', 1.0)


def trajectory(rng: random.Random, question: Question, passages: list[Hit]) -> Trajectory:
    """Three searches, then an answer that is right, nearly right or wrong."""
    answer = rng.choice(
        [question.golden_answers[0], f"{question.golden_answers[0]} too", rng.choice(WORDS)]
    )
    searches = [
        Turn(
            (1,) * 20,
            (-0.1,) * 20,
            "stop",
            "search",
            "",
            query="q",
            hits=tuple(rng.sample(passages, 3)),
        )
        for _ in range(3)
    ]
    answering = Turn((1,) * 20, (-0.1,) * 20, "stop", "answer", "", answer=answer)
    return Trajectory(
        GroupId(question.data_source, question.id, 0), 0, question, (1,), (*searches, answering)
    )


def measure(items: int) -> dict[str, float]:
    """CPU seconds of each part."""
    rng = random.Random(0)
    passages = [passage(rng, number) for number in range(20_000)]
    questions = [
        Question(
            str(number),
            "who?",
            ((f"{rng.choice(WORDS)} {rng.choice(WORDS)}"), rng.choice(WORDS)),
            f"set {number % SETS}",
            tuple(hit.id for hit in rng.sample(passages, 2)),
            "full",
        )
        for number in range(items)
    ]
    first, second = (
        [trajectory(rng, question, passages) for question in questions] for _ in range(2)
    )
    parts: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        parts[name] = time.process_time() - start
        return result

    def items_of(trajectories: list[Trajectory]) -> list[ItemRecord]:
        return [item_record(answered, answered.turns[0].hits) for answered in trajectories]

    first_items = timed("metrics per item", lambda: items_of(first))
    second_items = items_of(second)
    by_set = [
        [item for item in first_items if item["data_source"] == f"set {number}"]
        for number in range(SETS)
    ]

    def means() -> None:
        for set_items in by_set:
            with_intervals(summarize(set_items, dataset="d", method="m", k=3), set_items)
        averages(by_set)

    def column(records: list[ItemRecord], metric: Literal["em", "f1"]) -> dict[str, list[float]]:
        sets: dict[str, list[float]] = {}
        for record in records:
            sets.setdefault(record["data_source"], []).append(record[metric])
        return sets

    def compare(metric: Literal["em", "f1"]) -> None:
        compare_sets(column(first_items, metric), column(second_items, metric))

    timed("means and intervals", means)
    timed("comparison by em", partial(compare, "em"))
    timed("comparison by f1", partial(compare, "f1"))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parts = measure(options.items)
    parts["all"] = sum(parts.values())
    cores = counted(os.cpu_count() or 1, "core")
    machine = f"Python {platform.python_version()}, {platform.machine()}, {cores}"
    if options.json:
        print(
            json.dumps({"machine": machine, "items": options.items, "cpu_seconds": parts}, indent=2)
        )
        return
    print(f"{machine}, {counted(options.items, 'item')} in {SETS} sets\n\n{'part':<24}{'CPU s':>8}")
    for name, seconds in parts.items():
        print(f"{name:<24}{seconds:>8.2f}")


if __name__ == "__main__":
    main()
