"""One scripted agent: it knows the gold passages of a question, and searches until it has them.

A query is the question, what is left of it without the titles that were read, a title that the
question or a passage names, or another name in them. Each is tried on the real index; a search is
kept if it brings a gold passage that was missing.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from tspo_cli.credit.gold_match import contains_answer, exact_match
from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.data.question import Question
from tspo_cli.data.word_forms import Readable, wanted
from tspo_cli.retrieval.types import Hit, query_problem, unseen, unseen_depth
from tspo_cli.rollout.protocol import STOP_STRINGS, answer_action, parse_action, search_action
from tspo_cli.training.core.sequences import ScriptedTurn
from tspo_cli.training.sft.scripting.scripted_thoughts import (
    Why,
    answer_thought,
    called,
    guess_thought,
    plain_title,
    search_thought,
)

Imperfect = Literal["poor_query", "early_answer"]
Dropped = Literal[
    "no_supporting_ids",
    "no_passage_with_answer",
    "gold_not_in_index",
    "gold_not_retrieved",
    "too_many_searches",
    "answer_not_in_passages",
    "tags_in_text",
    "too_long",
]
"""Why a question gave no demonstration."""

_MOST_TRIED = 8
_LOWER = "of|the|de|von|van|der|du|da|di|la|le|and|to"
_CAPITAL = r"[^\W\d_a-z]"
# (What one part of a name takes, it keeps: no other part begins with it.)
_REST = r"(?:\.(?=\s)|[\w'’&-]*+(?:\.(?=\w)[\w'’&-]*+)*+)"
_WORD = f"{_CAPITAL}{_REST}"
# (The letter first: patterns that begin with a character are searched faster.)
_NAME = re.compile(rf"{_CAPITAL}(?<!\w.){_REST}(?:\s(?:(?:{_LOWER})\s){{0,2}}+(?:{_WORD}|\d+\b))*+")
_START = re.compile(
    r"^(?:(?:On|In|At|For|From|By|To|With|But|And|As|When|After|Is|Are|Was|Did|Which|What)\s)+"
)
_REVERSED_END = re.compile(r"(?:s['’]|[.'’&-])*+")
_LETTERS = re.compile(r"\w{3}")
_NO_NAMES = re.compile(
    "Who|What|When|Where|Which|Why|How|I[nst]|[OA][nt]|Are|Was|Were|Did|Do|Does|Ha[sd]|Have|The|A|"
    "Of|For|From|He|She|They|His|Her|Its|Th(?:is|at|ese|ose|ere|en|eir)|A[sn]d?|But|Or|By|To|With"
)


@dataclass(frozen=True, slots=True)
class Search:
    """One search of the script: its words, where they come from (for a passage: its title), what
    the index found, and what of that the agent is given.
    """

    query: str
    name: str
    why: Why
    title: str = ""
    found: tuple[Hit, ...] = ()
    hits: tuple[Hit, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """A demonstration. `imperfect` names the deliberate mistake; empty: there is none."""

    turns: tuple[ScriptedTurn, ...]
    imperfect: Imperfect | Literal[""] = ""


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """k: passages a search. imperfect: share of demonstrations with a deliberate mistake.
    max_words: longest demonstration that is kept, passages included (0: any). question_first: the
    first query is the question, where that brings a gold passage. restate: the last thought begins
    with the question. quote: it quotes the sentence with the answer. distant: a passage with the
    answer stands for the gold passages that a question does not name. exclude_seen: a search gives
    only passages that no earlier one gave, as rollout.exclude_seen does. min_searches: a script
    that has found its passages earlier searches on, where it knows what for.
    """

    k: int = 3
    seed: int = 0
    imperfect: float = 0.0
    max_searches: int = 4
    max_words: int = 0
    question_first: bool = False
    restate: bool = False
    quote: bool = True
    distant: bool = False
    exclude_seen: bool = False
    min_searches: int = 0

    @property
    def depth(self) -> int:
        """Passages to ask the index for."""
        return unseen_depth(self.k, self.max_searches) if self.exclude_seen else self.k


@dataclass(slots=True)
class ScriptedAgent:
    """Scripts one question. `gold` has the contents of its gold passages by id. `imperfect`: with a
    deliberate mistake, where one is possible.
    """

    question: Question
    gold: dict[str, str]
    options: ScriptOptions
    rng: Random
    imperfect: bool = False
    _made: list[Search] = field(default_factory=list)

    def script(self) -> Generator[list[str], list[tuple[Hit, ...]], Script | Dropped]:
        """Yields queries, wants the passages of each, and returns a demonstration or why there is
        none.
        """
        while not (is_found := self._is_found()) or len(self._made) < self.options.min_searches:
            if len(self._made) == self.options.max_searches:
                return "too_many_searches"
            tried = self._candidates()
            found = yield [search.query for search in tried]
            missing = self._missing()
            given = (
                self._given([*self._made, replace(search, found=hits)])[-1]
                for search, hits in zip(tried, found, strict=True)
            )
            useful = [
                search
                for search in given
                if any(is_found or hit.id in missing for hit in search.hits)
            ]
            if is_found and not useful:
                break
            if not useful:
                return "gold_not_retrieved"
            self._made.append(useful[0])
        answer, source = self._answer()
        if answer is None:
            return "answer_not_in_passages"
        script = Script((*self._searches(self._made), self._last(answer, source)))
        if self.imperfect:
            script = (yield from self._spoiled(answer, source)) or script
        return script if _is_sound(script.turns) else "tags_in_text"

    def _spoiled(
        self, answer: str, source: Hit | None
    ) -> Generator[list[str], list[tuple[Hit, ...]], Script | None]:
        """The script with one of the mistakes that are possible here; None without any."""
        kinds: list[Imperfect] = ["poor_query", "early_answer"]
        self.rng.shuffle(kinds)
        for kind in kinds:
            if kind == "early_answer":
                script = self._early()
            else:
                script = yield from self._poor_query(answer, source)
            if script is not None:
                return script
        return None

    def _early(self) -> Script | None:
        """Without the last search, with a wrong answer of the passages that were read."""
        made = self._made[:-1]
        known = self._known(made)
        names = (
            [self._made[-1].name or known[0].title, *(hit.title for hit in known)] if known else []
        )
        golds = self.question.golden_answers
        wrong = [name for name in names if not exact_match(name, golds)]
        if not known or not wrong:
            return None
        turn = ScriptedTurn(
            answer_action(guess_thought(self.rng, known[-1]), plain_title(wrong[0]))
        )
        return Script((*self._searches(made), turn), "early_answer")

    def _poor_query(
        self, answer: str, source: Hit | None
    ) -> Generator[list[str], list[tuple[Hit, ...]], Script | None]:
        """With a search before the others that finds no gold passage."""
        poor = _poor_queries(self.question.question)
        if len(self._made) == self.options.max_searches or not poor:
            return None
        found = yield poor
        tried = [
            self._given([Search(query, query, "question", found=hits)])[0]
            for query, hits in zip(poor, found, strict=True)
        ]
        useless = [
            search
            for search in tried
            if search.hits and not any(hit.id in self.gold for hit in search.hits)
        ]
        if not useless:
            return None
        searches = self._searches(self._given([self.rng.choice(useless), *self._made]))
        return Script((*searches, self._last(answer, source)), "poor_query")

    def _given(self, searches: Sequence[Search]) -> list[Search]:
        """The searches, each with what it gives after those before it."""
        given: list[Search] = []
        for search in searches:
            before = given if self.options.exclude_seen else ()
            seen = (hit for earlier in before for hit in earlier.hits)
            given.append(replace(search, hits=unseen(search.found, seen)[: self.options.k]))
        return given

    def _searches(self, made: Sequence[Search]) -> list[ScriptedTurn]:
        turns, known, useless = [], list[Hit](), False
        for search in made:
            read = search.title or (called(known[-1]) if known else "")
            thought = search_thought(self.rng, search.why, search.name, read, useless=useless)
            turns.append(ScriptedTurn(search_action(thought, search.query), search.hits))
            brought = [hit for hit in search.hits if hit.id in self.gold and hit not in known]
            useless = not brought
            known += brought
        return turns

    def _last(self, answer: str, source: Hit | None) -> ScriptedTurn:
        asked = self.question.question
        known = self._known(self._made)
        quote = self.options.quote
        thought = answer_thought(self.rng, source, known, asked, answer, quote=quote)
        if self.options.restate:
            thought = f"The question is: {' '.join(asked.split())} {thought}"
        return ScriptedTurn(answer_action(thought, answer))

    def _known(self, made: Sequence[Search]) -> list[Hit]:
        """The gold passages that these searches brought, in the order in which they came."""
        hits = {hit.id: hit for search in reversed(made) for hit in search.hits}
        order = dict.fromkeys(hit.id for search in made for hit in search.hits)
        return [hits[name] for name in order if name in self.gold]

    def _missing(self) -> dict[str, str]:
        read = {hit.id for search in self._made for hit in search.hits}
        return {name: contents for name, contents in self.gold.items() if name not in read}

    def _is_found(self) -> bool:
        missing = self._missing()
        # A list that is not complete has passages each of which answers the question.
        return not missing if self.question.gold_kind == "full" else len(missing) < len(self.gold)

    def _candidates(self) -> list[Search]:
        """Searches to try, the best first."""
        question = self.question.question
        asked = {search.query for search in self._made}
        whole = Search(question.strip().removesuffix("?").strip(), "", "question")
        in_question = list(self._titles(question, "named in question"))
        known = self._known(self._made)
        if self._made:
            unknown = [hit for search in self._made for hit in search.hits if hit not in known]
            read = [*reversed(known), *unknown]
            in_passages = [
                search
                for hit in read
                for search in self._titles(hit.contents, "named in passage", called(hit))
            ]
            bridges = [
                Search(name, name, "named in passage", called(hit))
                for hit in reversed(known)
                for name in _names(hit.text)
            ]
            others = [*in_passages, *bridges]
            rest = self._rest_of_question()
            read_next = [*rest, *others] if self.options.question_first else [*others, *rest]
            ordered = [*in_question, *read_next, whole]
        else:
            names = [Search(name, name, "named in question") for name in _names(question)]
            compares = "comparison" in self.question.type or len(in_question) > 1
            titles_first = not self.options.question_first and (
                compares or self.rng.random() < 1 / 3
            )
            ordered = [*(in_question if titles_first else []), whole, *in_question, *names]
        distinct: dict[str, Search] = {}
        for search in ordered:
            if search.query not in asked and query_problem(search.query) is None:
                distinct.setdefault(search.query, search)
        return list(distinct.values())[:_MOST_TRIED]

    def _rest_of_question(self) -> list[Search]:
        """The question without the words of titles that were read; none where nothing is left out
        or fewer than two words are left.
        """
        titles = " ".join(hit.title for search in self._made for hit in search.hits)
        read = set(normalize_answer(titles).split())
        words = self.question.question.rstrip(" ?").split()
        left = [
            word for word in words if not read.issuperset(normalize_answer(word).split() or [""])
        ]
        query = " ".join(left)
        return [Search(query, "", "rest of question")] if 1 < len(left) < len(words) else []

    def _titles(self, text: str, why: Why, source: str = "") -> Iterator[Search]:
        """Searches for missing gold passages whose titles `text` names: with the title, and with
        the question's words beside it. `source` is the title of the passage that `text` is from.
        """
        words = Readable.of(text)
        for contents in self._missing().values():
            title = Hit("", contents, 0.0).title
            name = plain_title(title)
            form = wanted(name)
            if form is not None and form.is_in(words):
                query = " ".join(re.sub(r"[()]", " ", title).split())
                yield Search(query, name, why, source)
                yield Search(f"{query} {self.question.question.rstrip(' ?')}", name, why, source)

    def _answer(self) -> tuple[str | None, Hit | None]:
        """The shortest answer that a passage holds, with the newest gold passage that does. An
        answer that stands in the question comes last. It follows from all passages, as yes and no
        do: then there is no such passage.
        """
        asked = self.question.question
        given = {gold for gold in self.question.golden_answers if contains_answer(asked, [gold])}
        answers = sorted(self.question.golden_answers, key=lambda gold: (gold in given, len(gold)))
        if any(answer.strip().lower() in ("yes", "no") for answer in answers):
            return answers[0], None
        known = self._known(self._made)
        others = [hit for search in self._made for hit in search.hits if hit not in known]
        for hits in (list(reversed(known)), others):
            for answer in answers:
                for hit in hits:
                    if contains_answer(hit.contents, [answer]):
                        return answer, None if answer in given else hit
        return None, None


def _names(text: str) -> list[str]:
    """The names in a text: runs of words with capitals, in their order."""
    found = dict.fromkeys(_NAME.findall(text))
    names = dict.fromkeys(_without_end(_START.sub("", name)) for name in found)
    return [
        name
        for name in names
        if name[:1].isupper() and _LETTERS.search(name) and not _NO_NAMES.fullmatch(name)
    ]


def _without_end(name: str) -> str:
    """A name without the genitive or punctuation at its end."""
    end = _REVERSED_END.match(name[::-1])
    return name[: len(name) - end.end()] if end is not None else name


def _poor_queries(question: str) -> list[str]:
    """Too little of the question: without its names, its last words, its first words."""
    words = question.strip().rstrip("?").split()
    unnamed = " ".join(_NAME.sub(" ", " ".join(words)).split())
    poor = dict.fromkeys([unnamed, " ".join(words[-2:]), " ".join(words[:4])])
    return [query for query in poor if query_problem(query) is None]


def _is_sound(turns: Sequence[ScriptedTurn]) -> bool:
    """Whether the agent loop would read every turn as it is meant: no tag in a query or answer."""
    for turn in turns:
        action = parse_action(turn.text, finish_reason="stop", may_search=True)
        ends = [turn.text.find(stop) + len(stop) for stop in STOP_STRINGS if stop in turn.text]
        meant = "search" if turn.hits else "answer"
        if action.kind != meant or min(ends) < len(turn.text) or turn.text.count("<think>") > 1:
            return False
    return True
