"""Demonstrations from questions with known gold passages, searched for in a real index."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, get_args

from tspo_cli.console import track
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.types import Hit
from tspo_cli.training.sft.demonstration_writer import demonstration_record
from tspo_cli.training.sft.scripting.distant_gold import SEARCHES_AT_ONCE, with_distant_gold
from tspo_cli.training.sft.scripting.scripted_search import (
    Dropped,
    Script,
    ScriptedAgent,
    ScriptOptions,
)

Steps = Generator[list[str], list[tuple[Hit, ...]], Script | Dropped]


@dataclass(frozen=True, slots=True)
class Summary:
    """What was made. `not_kept` counts questions by reason, `searches` demonstrations by their
    number of searches; lengths are in words, passages included in `words`.
    """

    questions: int
    kept: int
    not_kept: dict[str, int]
    imperfect: dict[str, int]
    searches: dict[str, int]
    median_words: float
    most_words: int
    most_thought_words: int


def make_demonstrations(
    questions: Sequence[Question], searcher: Searcher, options: ScriptOptions
) -> tuple[list[dict[str, Any]], Summary]:
    """The records of all demonstrations that could be made, in the order of the questions, and
    what became of the others. The same questions, index and options give the same records.

    A record names the gold passages that its question names, and none that `options.distant` found.

    Raises:
        InvalidInputError: no question has gold passages, or the index is damaged.
    """
    if not options.distant and not any(question.supporting_ids for question in questions):
        titled = any(question.extra.get("supporting_titles") for question in questions)
        raise InvalidInputError(
            "no question has supporting_ids, and a script needs to know the gold passages; name "
            "questions with gold passages, or add --distant to look for the answers instead"
            + ("; `tspo data make-corpus` makes such ids of paragraphs" if titled else "")
        )
    gold = _gold_contents(questions, searcher)
    known = questions
    if options.distant:
        known, found = with_distant_gold(questions, searcher, gold)
        gold |= found
    records: list[dict[str, Any]] = []
    lengths, searches, kinds = list[int](), Counter[int](), Counter[str]()
    dropped: Counter[str] = Counter(dict.fromkeys(get_args(Dropped), 0))
    outcomes = zip(questions, _outcomes(known, gold, searcher, options), strict=True)
    for question, outcome in track(outcomes, "scripting searches", len(questions)):
        if isinstance(outcome, str):
            dropped[outcome] += 1
            continue
        record = demonstration_record(question, outcome.turns, outcome.imperfect)
        words = sum(_words(turn) for turn in record["turns"])
        if 0 < options.max_words < words:
            dropped["too_long"] += 1
            continue
        records.append(record)
        lengths.append(words)
        searches[sum(bool(turn.hits) for turn in outcome.turns)] += 1
        kinds[outcome.imperfect] += bool(outcome.imperfect)
    thoughts = [_thought_words(turn["text"]) for record in records for turn in record["turns"]]
    return records, Summary(
        len(questions),
        len(records),
        {name: count for name, count in dropped.items() if count},
        {name: count for name, count in sorted(kinds.items()) if count},
        {str(number): searches[number] for number in sorted(searches)},
        statistics.median(lengths or [0]),
        max(lengths, default=0),
        max(thoughts, default=0),
    )


def _gold_contents(questions: Sequence[Question], searcher: Searcher) -> dict[str, str]:
    """The contents of the gold passages of all questions, by id; ids that the index lacks are
    left out.
    """
    wanted = {name for question in questions for name in question.supporting_ids}
    passages = track(searcher.passages(), "reading gold passages", len(searcher))
    return {name: contents for name, contents in passages if name in wanted}


def _outcomes(
    questions: Sequence[Question], gold: dict[str, str], searcher: Searcher, options: ScriptOptions
) -> Iterator[Script | Dropped]:
    """The script of each question or why there is none; searches of several go together."""
    for start in range(0, len(questions), SEARCHES_AT_ONCE):
        some = questions[start : start + SEARCHES_AT_ONCE]
        results: dict[int, Script | Dropped] = {}
        running: dict[int, Steps] = {}
        for place, question in enumerate(some):
            refused = _refused(question, gold, options)
            if refused:
                results[place] = refused
            else:
                running[place] = _agent(question, gold, options).script()
        answers: dict[int, list[tuple[Hit, ...]] | None] = dict.fromkeys(running)
        while running:
            asked: dict[int, list[str]] = {}
            for place, steps in list(running.items()):
                try:
                    asked[place] = steps.send(answers[place])  # type: ignore[arg-type]
                except StopIteration as done:
                    results[place] = done.value
                    del running[place]
            answers = _search(asked, searcher, options.depth)
        yield from (results[place] for place in range(len(some)))


def _refused(question: Question, gold: dict[str, str], options: ScriptOptions) -> Dropped | None:
    if not question.supporting_ids:
        return "no_passage_with_answer" if options.distant else "no_supporting_ids"
    there = [name in gold for name in question.supporting_ids]
    enough = all(there) if question.gold_kind == "full" else any(there)
    return None if enough else "gold_not_in_index"


def _agent(question: Question, gold: dict[str, str], options: ScriptOptions) -> ScriptedAgent:
    """Its chances depend on the seed and the question alone, not on the questions around it."""
    rng = Random(f"{options.seed}/{question.key}")
    imperfect = rng.random() < options.imperfect
    own = {name: gold[name] for name in question.supporting_ids if name in gold}
    return ScriptedAgent(question, own, options, rng, imperfect)


def _search(
    asked: dict[int, list[str]], searcher: Searcher, k: int
) -> dict[int, list[tuple[Hit, ...]] | None]:
    flat = [query for queries in asked.values() for query in queries]
    results = iter(searcher.search(flat, k))
    answers: dict[int, list[tuple[Hit, ...]] | None] = {}
    for place, queries in asked.items():
        found = [next(results) for _ in queries]
        for result in found:
            if result.error is not None:
                raise InvalidInputError(result.error)
        answers[place] = [result.hits for result in found]
    return answers


def _words(turn: dict[str, Any]) -> int:
    passages = [passage["contents"] for passage in turn.get("passages", ())]
    return sum(len(text.split()) for text in [turn["text"], *passages])


def _thought_words(text: str) -> int:
    """Words between the tags of the thought."""
    return len(text.partition("</think>")[0].split()) - 1
