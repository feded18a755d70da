"""Which questions an evaluation asks: whole sets, their beginnings, or samples of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tspo_cli.data.readers import default_data_source, read_questions, resolve_data
from tspo_cli.data.schema import Question
from tspo_cli.errors import UsageError


def read_eval_sets(names: Sequence[str], limit: int, sample: int = 0, seed: int = 0) -> dict[str, list[Question]]:
    """Questions by data set name (the file's name, or its folder's): the first `limit` of each, or `sample` drawn with
    `seed` (0: all). Every set keeps the order of its file; nothing else is dropped.

    Raises:
        UsageError: two files would have the same name in the results.
    """
    sets: dict[str, list[Question]] = {}
    for name in names:
        path = resolve_data(name)
        dataset = default_data_source(path)
        if dataset in sets:
            dataset = f"{dataset}_{path.name.split('.')[0]}"
        if dataset in sets:
            raise UsageError(f"--data: {path} and another file are both called {dataset!r}; rename one")
        questions = read_questions(path, limit=limit)
        sets[dataset] = draw(questions, sample, seed) if sample else questions
    return sets


def draw(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """`count` of the questions in their order. A question's luck depends on `seed` and its own name alone, so that a
    larger sample holds the smaller one."""
    lots = {one.key: hashlib.sha256(f"{seed}|{one.key}".encode()).digest() for one in questions}
    chosen = {one.key for one in sorted(questions, key=lambda one: lots[one.key])[:count]}
    return [one for one in questions if one.key in chosen]
