"""Scripted, imperfect demonstrations for the warm start.

The format (think, search, read, answer) is always correct. The query often has the wrong word, and
the answer is often another entity of the passages. Reinforcement learning has to improve both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tspo_cli.config.schema import DemonstrationConfig
from tspo_cli.data.question import Passage
from tspo_cli.data.world.generate import Hop, Plan, World
from tspo_cli.data.world.names import SYLLABLES, name_word
from tspo_cli.data.world.relations import FOUND, GOAL, GUESS, NO, NOT_FOUND, YES

_NAME = re.compile(r"\b[A-Z][a-z]+ [A-Z][a-z]+\b")


class FoundPassage(Protocol):
    """A search result. `contents` is the title in quotes, a newline, then the text."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def contents(self) -> str: ...


Search = Callable[[Sequence[str], int], Sequence[Sequence[FoundPassage]]]
"""Takes queries and k, returns at most k passages for each query."""


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """A turn: a query with its passages, or an answer."""

    think: str
    query: str | None = None
    answer: str | None = None
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A question and the turns that answer it, correctly or not. The last turn is the answer."""

    question: str
    turns: tuple[DemoTurn, ...]


@dataclass(frozen=True, slots=True)
class _SearchResult:
    """The passages of a query, and the entities in them in order of mention."""

    passages: tuple[Passage, ...]
    ids: frozenset[str]
    mentioned: tuple[str, ...]


class Demonstrator:
    """Draws demonstrations of the training questions of a world.

    All possible queries are searched at construction, and drawing needs no search. With `rename`,
    every demonstration replaces the words of all names by new ones, so that a model cannot memorise
    names and has to copy them.
    """

    def __init__(
        self,
        world: World,
        search: Search,
        config: DemonstrationConfig,
        *,
        k: int,
        max_searches: int,
        rename: bool,
    ) -> None:
        self._plans, self._names, self._config = world.plans, world.names, config
        self._max_searches, self._rename = max_searches, rename
        self._words = re.compile(
            r"\b(?:" + "|".join(sorted({w for name in world.names for w in name.split()})) + r")\b"
        )
        queries = list(
            dict.fromkeys(q for plan in world.plans for hop in plan.hops for q in _queries(hop))
        )
        self._results = dict(zip(queries, map(self._read, search(queries, k)), strict=True))

    def draw(self, rng: np.random.Generator) -> Demonstration:
        """One demonstration of a random training question."""
        plan = self._plans[int(rng.integers(len(self._plans)))]
        demonstration = Demonstration(plan.question, tuple(self._act(plan, rng)))
        return self._renamed(demonstration, rng) if self._rename else demonstration

    def _act(self, plan: Plan, rng: np.random.Generator) -> list[DemoTurn]:
        config = self._config
        turns: list[DemoTurn] = []
        last: _SearchResult | None = None
        state = ""
        for number, hop in enumerate(plan.hops, start=1):
            goal = GOAL.format(asked=hop.relation.asked, s=hop.subject)
            options = list(zip(_queries(hop), _query_odds(config), strict=True))
            while len(turns) < self._max_searches:
                query = _pick(options, rng)
                last = self._results[query]
                turns.append(
                    DemoTurn(
                        f"{state}, {goal}" if state else goal, query=query, passages=last.passages
                    )
                )
                is_retrieved = hop.passage_id in last.ids
                state = FOUND if is_retrieved else NOT_FOUND
                options = [option for option in options if option[0] != query]
                if is_retrieved or not options or rng.random() >= config.retry:
                    break
            else:
                is_retrieved = False
            is_last = number == len(plan.hops)
            if not is_retrieved:
                return [*turns, DemoTurn(GUESS, answer=self._guess(plan, hop, last, rng))]
            if not is_last and plan.type == "bridge" and rng.random() < config.early_stop:
                return [*turns, DemoTurn(GUESS, answer=hop.object)]
        draw = rng.random()
        if draw < config.answer_correct:
            return [*turns, DemoTurn(FOUND, answer=plan.answer)]
        if plan.type != "comparison" and draw >= config.answer_correct + config.answer_distractor:
            return [*turns, DemoTurn(GUESS, answer=plan.hops[-1].subject)]
        return [*turns, DemoTurn(GUESS, answer=self._guess(plan, plan.hops[-1], last, rng))]

    def _guess(
        self, plan: Plan, hop: Hop, last: _SearchResult | None, rng: np.random.Generator
    ) -> str:
        """A wrong entity of the last passages; for a yes/no question a random answer."""
        if plan.type == "comparison":
            return (YES, NO)[int(rng.integers(2))]
        candidates = [
            name
            for name in (last.mentioned if last else ())
            if name not in (plan.answer, hop.subject)
        ]
        return candidates[int(rng.integers(len(candidates)))] if candidates else hop.subject

    def _read(self, hits: Sequence[FoundPassage]) -> _SearchResult:
        passages = tuple(Passage(hit.id, hit.title, hit.text) for hit in hits)
        mentioned = [
            name
            for p in passages
            for name in _NAME.findall(f"{p.title}. {p.text}")
            if name in self._names
        ]
        return _SearchResult(
            passages, frozenset(p.id for p in passages), tuple(dict.fromkeys(mentioned))
        )

    def _renamed(self, demonstration: Demonstration, rng: np.random.Generator) -> Demonstration:
        supply = _new_words(rng)
        new: dict[str, str] = {}

        def replace(match: re.Match[str]) -> str:
            old = match.group()
            if old not in new:
                new[old] = next(supply)
            return new[old]

        def rename(text: str) -> str:
            return self._words.sub(replace, text)

        turns = tuple(
            DemoTurn(
                rename(turn.think),
                None if turn.query is None else rename(turn.query),
                None if turn.answer is None else rename(turn.answer),
                tuple(Passage(p.id, rename(p.title), rename(p.text)) for p in turn.passages),
            )
            for turn in demonstration.turns
        )
        return Demonstration(rename(demonstration.question), turns)


def _queries(hop: Hop) -> tuple[str, str, str]:
    """The name with the word of the corpus, with the word of the question, and alone."""
    return (
        f"{hop.subject} {hop.relation.passage_word}",
        f"{hop.subject} {hop.relation.asked}",
        hop.subject,
    )


def _query_odds(config: DemonstrationConfig) -> tuple[float, float, float]:
    good, asked = config.query_good, config.query_question_word
    return good, asked, max(0.0, 1.0 - good - asked)


def _pick(options: Sequence[tuple[str, float]], rng: np.random.Generator) -> str:
    """A random option by its odds; the first if all odds are 0."""
    point = rng.random() * sum(odds for _, odds in options)
    for query, odds in options:
        point -= odds
        if point < 0:
            return query
    return options[0][0]


def _new_words(rng: np.random.Generator) -> Iterator[str]:
    """Distinct name words."""
    seen: set[str] = set()
    while True:
        for first, second in rng.integers(len(SYLLABLES), size=(64, 2)).tolist():
            word = name_word(first, second)
            if word not in seen:
                seen.add(word)
                yield word
