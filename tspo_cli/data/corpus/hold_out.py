"""Split questions into those to train on and those to evaluate on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from tspo_cli.data.corpus.contamination import plain_words
from tspo_cli.data.question import Question


def hold_out(
    questions: Sequence[Question], count: int
) -> tuple[list[Question], list[Question]] | None:
    """`questions` without `count` of them, and those, both in their order; None if too few are
    there to leave one on each side.

    Questions with gold passages come first, so that what was retrieved can be scored; then the
    digests of the ids decide, and the order of `questions` does not. Questions with the same words
    stay together.
    """
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        groups[plain_words(question.question)].append(question)
    held: set[str] = set()
    for group in sorted(groups.values(), key=lambda group: min(map(_rank, group))):
        if len(held) + len(group) <= count:
            held.update(question.id for question in group)
    if len(held) != count or count >= len(questions):
        return None
    return (
        [question for question in questions if question.id not in held],
        [question for question in questions if question.id in held],
    )


def _rank(question: Question) -> tuple[bool, bytes]:
    return not question.supporting_ids, hashlib.sha256(question.id.encode()).digest()
