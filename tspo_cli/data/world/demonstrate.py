"""Scripted, imperfect demonstrations: how somebody answers who knows the form and has little
judgement.

The form (think, search, read, answer) is always right. The query often uses the wrong word, and the
answer is mostly another entity that was mentioned: this is what reinforcement learning is left to
improve.
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
    """What a search returns: `contents` is the title in quotes, a newline, then the text."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def contents(self) -> str: ...


Search = Callable[[Sequence[str], int], Sequence[Sequence[FoundPassage]]]
"""Queries and k in, at most k passages for each query out."""


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """One turn: a query with the passages that it found, or an answer."""

    think: str
    query: str | None = None
    answer: str | None = None
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A question and the turns that answer it, rightly or wrongly. The last turn is the only
    answer.
    """

    question: str
    turns: tuple[DemoTurn, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """The passages of one query and the entities that they mention, in order of mention."""

    passages: tuple[Passage, ...]
    ids: frozenset[str]
    mentioned: tuple[str, ...]


class Demonstrator:
    """Draws demonstrations of the training questions of a world.

    All queries that can occur are searched once, here; drawing then needs no search. With `rename`,
    the words of all names are replaced by invented ones, differently in every demonstration: names
    cannot be learnt, only copied.
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
        self._found = dict(zip(queries, map(self._read, search(queries, k)), strict=True))

    def draw(self, rng: np.random.Generator) -> Demonstration:
        """One demonstration of a random training question."""
        plan = self._plans[int(rng.integers(len(self._plans)))]
        demonstration = Demonstration(plan.question, tuple(self._act(plan, rng)))
        return self._renamed(demonstration, rng) if self._rename else demonstration

    def _act(self, plan: Plan, rng: np.random.Generator) -> list[DemoTurn]:
        config = self._config
        turns: list[DemoTurn] = []
        last: _Found | None = None
        state = ""
        for place, hop in enumerate(plan.hops):
            goal = GOAL.format(asked=hop.relation.asked, s=hop.subject)
            options = list(zip(_queries(hop), _query_odds(config), strict=True))
            while len(turns) < self._max_searches:
                query = _pick(options, rng)
                last = self._found[query]
                turns.append(
                    DemoTurn(
                        f"{state}, {goal}" if state else goal, query=query, passages=last.passages
                    )
                )
                found = hop.passage_id in last.ids
                state = FOUND if found else NOT_FOUND
                options = [option for option in options if option[0] != query]
                if found or not options or rng.random() >= config.retry:
                    break
            else:
                found = False
            is_last = place == len(plan.hops) - 1
            if not found:
                return [*turns, DemoTurn(GUESS, answer=self._guess(plan, hop, last, rng))]
            if not is_last and plan.type == "bridge" and rng.random() < config.early_stop:
                return [*turns, DemoTurn(GUESS, answer=hop.object)]
        luck = rng.random()
        if luck < config.answer_correct:
            return [*turns, DemoTurn(FOUND, answer=plan.answer)]
        if plan.type != "comparison" and luck >= config.answer_correct + config.answer_distractor:
            return [*turns, DemoTurn(GUESS, answer=plan.hops[-1].subject)]
        return [*turns, DemoTurn(GUESS, answer=self._guess(plan, plan.hops[-1], last, rng))]

    def _guess(self, plan: Plan, hop: Hop, found: _Found | None, rng: np.random.Generator) -> str:
        """Another entity than the answer that the last passages mention; a coin for yes/no
        questions.
        """
        if plan.type == "comparison":
            return (YES, NO)[int(rng.integers(2))]
        others = [
            name
            for name in (found.mentioned if found else ())
            if name not in (plan.answer, hop.subject)
        ]
        return others[int(rng.integers(len(others)))] if others else hop.subject

    def _read(self, hits: Sequence[FoundPassage]) -> _Found:
        passages = tuple(Passage(hit.id, hit.title, hit.text) for hit in hits)
        mentioned = [
            name
            for p in passages
            for name in _NAME.findall(f"{p.title}. {p.text}")
            if name in self._names
        ]
        return _Found(passages, frozenset(p.id for p in passages), tuple(dict.fromkeys(mentioned)))

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
    """The good query, the one with the question's word, and the bare name."""
    return f"{hop.subject} {hop.relation.told}", f"{hop.subject} {hop.relation.asked}", hop.subject


def _query_odds(config: DemonstrationConfig) -> tuple[float, float, float]:
    good, asked = config.query_good, config.query_question_word
    return good, asked, max(0.0, 1.0 - good - asked)


def _pick(options: Sequence[tuple[str, float]], rng: np.random.Generator) -> str:
    """One of the options by their odds; when all odds are 0, the first."""
    point = rng.random() * sum(odds for _, odds in options)
    for query, odds in options:
        point -= odds
        if point < 0:
            return query
    return options[0][0]


def _new_words(rng: np.random.Generator) -> Iterator[str]:
    """Name words without repetition."""
    seen: set[str] = set()
    while True:
        for first, second in rng.integers(len(SYLLABLES), size=(64, 2)).tolist():
            word = name_word(first, second)
            if word not in seen:
                seen.add(word)
                yield word
