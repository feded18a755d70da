"""Question sets beside a corpus: which scores it allows, and which questions have leaked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.console import track
from tspo_cli.data.corpus import contamination
from tspo_cli.data.corpus.chunks import WHOLE
from tspo_cli.data.corpus.contamination import Finding, Located
from tspo_cli.data.corpus.corpus_files import CorpusFacts, read_corpus
from tspo_cli.data.question import Question
from tspo_cli.evaluation.ceiling import CorpusCeiling, search_ceiling
from tspo_cli.retrieval.index.searcher import Searcher, open_index

Passages = Iterator[tuple[str, str, str]]
"""(where it stands, id, contents) of every passage."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found.

    rows: of each set the shares that its scores cannot exceed; none without a corpus.
    findings: questions that stand in a second place.
    """

    rows: list[dict[str, Any]]
    findings: list[Finding]


def audit_sets(
    sets: Mapping[str, Sequence[Question]],
    questions: Sequence[Located],
    trained: Sequence[Located],
    *,
    index: Path | None,
    corpus: Path | None,
    depths: Sequence[int],
) -> Audit:
    """Read the corpus of `index`, or `corpus`, once, and compare the sets with it and with the
    training questions.

    Args:
        questions: those of `sets` with their files and lines.
        depths: numbers of passages that one search with the question gives, with `index` alone.

    Raises:
        MissingResourceError: the index or the corpus does not exist.
        InvalidInputError: one of them is malformed.
    """
    finder = contamination.QuestionFinder(questions)
    rows = []
    if index is not None:
        searcher = open_index(index)
        rows = _rows(sets, finder, _of_index(searcher, index), searcher, depths)
    elif corpus is not None:
        rows = _rows(sets, finder, _of_corpus(corpus), None, depths)
    findings = [
        *finder.findings(),
        *contamination.shared_questions(questions, trained),
        *contamination.repeated_questions(questions),
    ]
    return Audit(rows, findings)


def _rows(
    sets: Mapping[str, Sequence[Question]],
    finder: contamination.QuestionFinder,
    passages: Passages,
    searcher: Searcher | None,
    depths: Sequence[int],
) -> list[dict[str, Any]]:
    """The shares of every set. The finder gets all passages."""
    ceilings = {name: CorpusCeiling(members) for name, members in sets.items()}
    for where, passage, text in passages:
        finder.feed(where, text)
        for ceiling in ceilings.values():
            ceiling.feed(passage, text)
    return [
        {
            "dataset": name,
            "n": len(members),
            **ceilings[name].shares(),
            "search": [] if searcher is None else search_ceiling(members, searcher, depths),
        }
        for name, members in sets.items()
    ]


def _of_index(searcher: Searcher, index: Path) -> Passages:
    for name, text in track(searcher.passages(), "reading the corpus", len(searcher)):
        yield f"passage {name!r} of {index}", name, text


def _of_corpus(corpus: Path) -> Passages:
    for file, line, passage in track(
        read_corpus([corpus], WHOLE, CorpusFacts()), "reading the corpus"
    ):
        yield f"{file}:{line}", passage.id, passage.contents
