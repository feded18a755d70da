"""Which questions an evaluation asks: whole sets, their beginnings, or samples of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tspo_cli.data.benchmarks import benchmarks
from tspo_cli.data.question import Question
from tspo_cli.data.readers import data_roots, default_data_source, read_questions, resolve_data
from tspo_cli.errors import UsageError


def read_eval_sets(
    names: Sequence[str], limit: int, sample: int = 0, seed: int = 0
) -> dict[str, list[Question]]:
    """Questions by data set name (the file's name, or its folder's): the first `limit` of each, or
    `sample` drawn with `seed` (0: all). Every set keeps the order of its file; nothing else is
    dropped.

    Raises:
        UsageError: two files would have the same name in the results.
    """
    registry = benchmarks(data_roots())
    sets: dict[str, list[Question]] = {}
    for name in names:
        path = resolve_data(name)
        dataset = name if name in registry else default_data_source(path)
        if dataset in sets:
            dataset = f"{dataset}_{path.name.split('.')[0]}"
        if dataset in sets:
            raise UsageError(
                f"--data: {path} and another file are both called {dataset!r}; rename one"
            )
        questions = read_questions(path, limit=limit, source=dataset)
        sets[dataset] = draw(questions, sample, seed) if sample else questions
    return sets


def benchmark_size(dataset: str) -> int | None:
    """How many questions the whole benchmark of that name has; None for other sets."""
    known = benchmarks(data_roots()).get(dataset)
    return known.size or None if known is not None else None


def draw(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """`count` of the questions in their order. A question's luck depends on `seed` and its own name
    alone, so that a larger sample holds the smaller one.
    """
    lots = {one.key: hashlib.sha256(f"{seed}|{one.key}".encode()).digest() for one in questions}
    chosen = {one.key for one in sorted(questions, key=lambda one: lots[one.key])[:count]}
    return [one for one in questions if one.key in chosen]
