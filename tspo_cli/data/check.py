"""Find all problems of a question file and its corpus in a single pass."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tspo_cli.console import say
from tspo_cli.data.corpus.passage_forms import numbered, parse_passage
from tspo_cli.data.formats.record_checks import RepeatedIds
from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.data.question import Passage, Question
from tspo_cli.data.readers import (
    default_data_source,
    numbered_questions,
    parse_question,
)
from tspo_cli.data.rows import scan_rows
from tspo_cli.data.word_forms import (
    LONGEST_PARTICLE,
    SEPARATOR,
    Readable,
    Wanted,
    is_hangul,
    readable,
    wanted,
)
from tspo_cli.errors import InvalidInputError

_CHUNK = re.compile("[^ ]+")
MOST_PROBLEMS = 10_000
"""Problems that are kept; all are counted. A file may have millions."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a file. `line` is the line of JSONL or the row of parquet, from 1; 0 means the
    whole file.
    """

    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line}: {self.message}"
            if self.line
            else f"{self.file}: {self.message}"
        )


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The content of a question file and its problems. Only valid records are counted.

    `with_answer_in_corpus` is the number of questions with an accepted answer in a passage (whole
    words after normalisation, title and text), without the `yes_no_questions`, whose answers prove
    nothing in a passage. It is None without a corpus. A low share is not a
    problem by itself. Nor are records that are identical to an earlier one: only
    `identical_questions` and `identical_passages` count them, and readers leave them out.
    """

    questions: int
    passages: int | None
    data_sources: dict[str, int]
    types: dict[str, int]
    with_supporting_ids: int
    yes_no_questions: int
    with_answer_in_corpus: int | None
    identical_questions: int = 0
    identical_passages: int | None = None
    problems: tuple[Problem, ...] = field(default=())
    problem_count: int = 0
    """All problems, of which `problems` has the first `MOST_PROBLEMS`."""


class _Problems:
    """The first problems, and how many there are."""

    def __init__(self) -> None:
        self.first: list[Problem] = []
        self.count = 0

    def add(self, *problems: Problem) -> None:
        self.count += len(problems)
        self.first += problems[: MOST_PROBLEMS - len(self.first)]


def check(questions: Path, corpus: Path | None = None) -> CheckReport:
    """Read the whole question file, and the corpus if it is given, count all problems, and collect
    the first 10,000.

    Raises:
        MissingResourceError: a file does not exist.
    """
    problems = _Problems()
    repeated_questions, repeated_passages = RepeatedIds(), RepeatedIds()
    valid = list(_valid_questions(questions, problems, repeated_questions))
    _say_titles(questions, [question for _, question in valid])
    passages: int | None = None
    answered: int | None = None
    answers = [telling_answers(question.golden_answers) for _, question in valid]
    if corpus is not None:
        finder = AnswerFinder(answers)
        ids: set[str] = set()
        passages = 0
        for passage in _valid_passages(corpus, problems, repeated_passages):
            ids.add(passage.id)
            finder.feed(passage.contents)
            passages += 1
        answered = len(finder.answered)
        for problem in _missing_support(questions, valid, ids, corpus):
            problems.add(problem)
    return CheckReport(
        questions=len(valid),
        passages=passages,
        data_sources=dict(Counter(question.data_source for _, question in valid)),
        types=dict(Counter(question.type for _, question in valid if question.type)),
        with_supporting_ids=sum(bool(question.supporting_ids) for _, question in valid),
        yes_no_questions=sum(not golds for golds in answers),
        with_answer_in_corpus=answered,
        identical_questions=repeated_questions.same,
        identical_passages=None if corpus is None else repeated_passages.same,
        problems=tuple(
            sorted(problems.first, key=lambda problem: (problem.file != questions, problem.line))
        ),
        problem_count=problems.count,
    )


def _valid_questions(
    path: Path, problems: _Problems, repeated: RepeatedIds
) -> Iterator[tuple[int, Question]]:
    default_source = default_data_source(path)
    number = 0
    for number, record in numbered_questions(path, scan_rows(path)):
        try:
            question = parse_question(path, number, _record(record), default_source)
        except InvalidInputError as error:
            problems.add(_problem(path, number, error))
            continue
        earlier = repeated.earlier(question.key, number, question)
        if earlier is not None and earlier[1]:
            continue
        problems.add(*(Problem(path, number, message) for message in _oddities(question)))
        if earlier is not None:
            problems.add(_other_content(path, number, question.id, earlier[0]))
        yield number, question
    if number == 0:
        problems.add(Problem(path, 0, "no questions"))


def _say_titles(path: Path, questions: Sequence[Question]) -> None:
    named = [question for question in questions if question.extra.get("supporting_titles")]
    if named and not any(question.supporting_ids for question in questions):
        say(
            f"{path}: gold passages have titles and no ids; if the questions bring their "
            "paragraphs, `tspo data make-corpus` makes passages with ids of them"
        )


def _oddities(question: Question) -> Iterator[str]:
    """Problems that the reader accepts, but that make scores and rewards unreliable."""
    for gold in question.golden_answers:
        if not normalize_answer(gold):
            yield (
                f"golden answer {gold!r} is empty after normalisation and can never be found in a "
                "passage"
            )
    if question.gold_kind != "none" and not question.supporting_ids:
        yield f'"gold_kind" is {question.gold_kind!r} but "supporting_ids" is empty'


def _other_content(path: Path, number: int, identifier: str, earlier: int) -> Problem:
    return Problem(path, number, f"id {identifier!r} as on line {earlier}, with other content")


def _valid_passages(path: Path, problems: _Problems, repeated: RepeatedIds) -> Iterator[Passage]:
    number = 0
    for number, record in numbered(path, scan_rows(path)):
        try:
            passage = parse_passage(path, number, _record(record))
        except InvalidInputError as error:
            problems.add(_problem(path, number, error))
            continue
        earlier = repeated.earlier(passage.id, number, passage)
        if earlier is not None and earlier[1]:
            continue
        if earlier is not None:
            problems.add(_other_content(path, number, passage.id, earlier[0]))
        yield passage
    if number == 0:
        problems.add(Problem(path, 0, "no passages"))


def _record(scanned: dict[str, Any] | InvalidInputError) -> dict[str, Any]:
    if isinstance(scanned, InvalidInputError):
        raise scanned
    return scanned


def _problem(path: Path, number: int, error: InvalidInputError) -> Problem:
    return Problem(path, number, str(error).removeprefix(f"{path}:{number}: "))


def _missing_support(
    path: Path, questions: Iterable[tuple[int, Question]], passage_ids: set[str], corpus: Path
) -> Iterator[Problem]:
    for number, question in questions:
        for identifier in question.supporting_ids:
            if identifier not in passage_ids:
                yield Problem(path, number, f"supporting passage {identifier!r} is not in {corpus}")


def telling_answers(golds: Sequence[str]) -> list[str]:
    """The accepted answers that prove something in a passage: not yes, no, and punctuation."""
    return [gold for gold in golds if normalize_answer(gold) not in ("", "yes", "no")]


class AnswerFinder:
    """Finds the questions with an answer in a stream of passages.

    The cost is one look-up per word, however many answers there are. `answered` holds the indices
    of the questions with an answer in the passages so far.
    """

    def __init__(self, golds: Sequence[Sequence[str]]) -> None:
        self.answered: set[int] = set()
        self._indices: dict[Wanted, list[int]] = defaultdict(list)
        for index, answers in enumerate(golds):
            for answer in map(wanted, answers):
                if answer is not None:
                    self._indices[answer].append(index)
        self._by_start: dict[str, set[Wanted]] = defaultdict(set)
        for answer in self._indices:
            for start in (
                _starts(SEPARATOR.split(answer.words.split(" ")[0])) if answer.is_spaced else ()
            ):
                self._by_start[start].add(answer)
        self._unspaced = {answer for answer in self._indices if not answer.is_spaced}
        self._longest = max(map(len, self._by_start), default=0)

    def feed(self, contents: str) -> None:
        """Search a passage."""
        words = readable(contents)
        found: set[Wanted] = set()
        for chunk in _CHUNK.finditer(words):
            place = chunk.start()
            parts = SEPARATOR.split(chunk.group())
            for number, part in enumerate(parts):
                for start in self._words_from(parts, number) if part else ():
                    for answer in self._by_start.get(start, ()):
                        if answer.pattern.match(words, place):
                            found.add(answer)
                place += len(part) + 1
        if self._unspaced:
            text = Readable.of(contents)
            found.update(answer for answer in self._unspaced if answer.is_in(text))
        for answer in found:
            self._found(answer)

    def _words_from(self, parts: Sequence[str], first: int) -> Iterator[str]:
        """What an answer may begin with at a part, also before a Korean particle."""
        for start in _starts(parts, first, self._longest + LONGEST_PARTICLE):
            yield start
            if is_hangul(start[-1]):
                yield from (start[:-length] for length in range(1, LONGEST_PARTICLE + 1))

    def _found(self, answer: Wanted) -> None:
        self.answered.update(self._indices[answer])
        self._unspaced.discard(answer)
        for start in _starts(SEPARATOR.split(answer.words.split(" ")[0])):
            self._by_start[start].discard(answer)


def _starts(parts: Sequence[str], first: int = 0, longest: int = 10**9) -> Iterator[str]:
    """What the letters of a word may begin with: `u` and `us` for the parts of `U.S.`, from part
    `first` on.
    """
    letters = ""
    for number in range(first, len(parts)):
        part = parts[number]
        letters += part
        if len(letters) > longest:
            return
        if part:
            yield letters
