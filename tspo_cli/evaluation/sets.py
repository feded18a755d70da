"""The questions of an evaluation: whole data sets, their first questions, or random samples."""

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
    """Questions by data set name, which is the name of the file or of its folder.

    `limit` keeps the first questions of each set, `sample` that many random ones (0: all). The
    order of the file is kept.

    Raises:
        UsageError: two files have the same data set name.
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
    """Number of questions of the whole benchmark; None for other data sets."""
    known = benchmarks(data_roots()).get(dataset)
    return known.size or None if known is not None else None


def draw(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """A random sample of `count` questions, in their order.

    The rank of a question depends only on `seed` and its key, so that a larger sample contains the
    smaller one.
    """
    keys = [question.key for question in questions]
    ranked = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}|{key}".encode()).digest())
    chosen = set(ranked[:count])
    return [question for question in questions if question.key in chosen]
