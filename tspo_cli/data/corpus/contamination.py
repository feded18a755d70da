"""Evaluation questions that a corpus, a training file or their own file holds once more.

Texts are compared after normalisation of Unicode, case, punctuation and white space. A paraphrase
is not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tspo_cli.data.corpus.unspaced import UNSPACED
from tspo_cli.data.question import Question
from tspo_cli.data.readers import question_rows

KINDS = {
    "answer_in_passage": "questions in a passage together with their answer",
    "question_in_passage": "questions in a passage without their answer",
    "shared_with_training": "questions that are also training questions",
    "duplicate": "questions twice in their file",
}
"""What can be found, from worse to less bad, in words."""
LEAST_WORDS = 3
"""Shorter questions are not looked for in passages: they may be any phrase."""
_NO_WORD = re.compile(r"[\W_]+")
_UNSPACED = re.compile(f"([{UNSPACED}])")
"""Where no spaces stand between words, each letter is a word."""


@dataclass(frozen=True, slots=True)
class Located:
    """A question and where it stands: `line` is the line or row, from 1."""

    file: Path
    line: int
    question: Question


@dataclass(frozen=True, slots=True)
class Finding:
    """A question that stands in a second place. `kind` is one of KINDS, `where` a file and line."""

    kind: str
    file: Path
    line: int
    question: str
    where: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.question!r} is {self.where}"

    def as_json(self) -> dict[str, Any]:
        """The fields with the file as text."""
        return asdict(self) | {"file": str(self.file)}


def located(path: Path, limit: int = 0) -> list[Located]:
    """The questions of a file with their lines: the first `limit` of each data source (0: all).

    Raises:
        MissingResourceError: the file does not exist.
        InvalidInputError: a record is malformed.
    """
    taken: Counter[str] = Counter()
    kept = []
    for line, question in question_rows(path):
        taken[question.data_source] += 1
        if not limit or taken[question.data_source] <= limit:
            kept.append(Located(path, line, question))
    return kept


def plain_words(text: str) -> str:
    """The words of a text in lower case between single spaces, with one at both ends."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _NO_WORD.sub(" ", folded)
    if not words.isascii():
        words = _UNSPACED.sub(r" \1 ", words)
    return f" {' '.join(words.split())} "


def repeated_questions(questions: Iterable[Located]) -> Iterator[Finding]:
    """Questions whose text stands earlier in the same file."""
    first: dict[tuple[Path, str], int] = {}
    for at in questions:
        earlier = first.setdefault((at.file, plain_words(at.question.question)), at.line)
        if earlier != at.line:
            yield _finding("duplicate", at, f"also on line {earlier}")


def shared_questions(
    questions: Iterable[Located], training: Iterable[Located]
) -> Iterator[Finding]:
    """Evaluation questions whose text is that of a training question."""
    trained: dict[str, Located] = {}
    for at in training:
        trained.setdefault(plain_words(at.question.question), at)
    for at in questions:
        found = trained.get(plain_words(at.question.question))
        if found is not None:
            yield _finding("shared_with_training", at, f"also in {found.file}:{found.line}")


class QuestionFinder:
    """Finds questions in a stream of passages, each once, with its answer if any passage has both.

    The cost grows with the words of the passages, not with the number of questions.
    """

    def __init__(self, questions: Sequence[Located]) -> None:
        self._questions = questions
        self._texts = [plain_words(at.question.question) for at in questions]
        self._by_start: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._found: dict[int, Finding] = {}
        for index, text in enumerate(self._texts):
            words = text.split()
            if len(words) >= LEAST_WORDS:
                self._by_start[tuple(words[:LEAST_WORDS])].append(index)

    def feed(self, where: str, contents: str) -> None:
        """Search a passage that stands at `where`."""
        text = plain_words(contents)
        words = text.split()
        starts = zip(*(words[place:] for place in range(LEAST_WORDS)), strict=False)
        for start in self._by_start.keys() & set(starts):
            for index in self._by_start[start]:
                if self._texts[index] in text:
                    self._add(index, where, text)

    def _add(self, index: int, where: str, text: str) -> None:
        known = self._found.get(index)
        if known is not None and known.kind == "answer_in_passage":
            return
        at = self._questions[index]
        # The answer of "is A or B older" stands in the question itself.
        rest = text.replace(self._texts[index], "  ")
        answers = (plain_words(answer) for answer in at.question.golden_answers)
        if any(answer.strip() and answer in rest for answer in answers):
            self._found[index] = _finding("answer_in_passage", at, f"in {where}, with its answer")
        elif known is None:
            self._found[index] = _finding("question_in_passage", at, f"in {where}")

    def findings(self) -> list[Finding]:
        """What was found so far, in the order of the questions."""
        return [self._found[index] for index in sorted(self._found)]


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Findings of each kind, also of those that were not found."""
    number = Counter(finding.kind for finding in findings)
    return {kind: number[kind] for kind in KINDS}


def examples(findings: Iterable[Finding], most: int = 5) -> list[Finding]:
    """The first `most` findings of each kind."""
    taken: Counter[str] = Counter()
    shown = []
    for finding in findings:
        taken[finding.kind] += 1
        if taken[finding.kind] <= most:
            shown.append(finding)
    return shown


def _finding(kind: str, at: Located, where: str) -> Finding:
    return Finding(kind, at.file, at.line, at.question.question, where)
