"""What is said of a corpus that was made from question sets: its counts, and its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tspo_cli import __version__
from tspo_cli.text.printable import one_line


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """A source: its questions that were kept, and its files with their SHA-256."""

    name: str
    questions: int
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file of questions. `types` and `levels` count those that the set gives."""

    name: str
    questions: int
    without_gold: int
    types: Mapping[str, int]
    levels: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """A made corpus. `given` counts its paragraphs before equal ones became one passage,
    `left_out` the questions that it lacks, by reason, and `sets` has the licence of each set.
    """

    command: str
    sources: tuple[SourceFacts, ...]
    passages: int
    given: int
    title_only: int
    files: tuple[FileFacts, ...]
    left_out: Mapping[str, int]
    sets: Mapping[str, str]

    @property
    def questions(self) -> int:
        """Questions of all files."""
        return sum(file.questions for file in self.files)


def card(summary: Summary) -> str:
    """The card in Markdown. It names no folder and no time: the same sources give the same card."""
    names = ", ".join(source.name for source in summary.sources)
    repeated = summary.given - summary.passages
    sizes = [
        ("passages", summary.passages),
        ("paragraphs that were given", summary.given),
        ("equal to an earlier one, left out", repeated),
        ("passages with a title and no text", summary.title_only),
    ]
    counts = [
        (
            f"`{file.name}`",
            file.questions,
            file.without_gold,
            _counts(file.types),
            _counts(file.levels),
        )
        for file in summary.files
    ]
    files = [
        (source.name, source.questions, name, f"`{digest}`")
        for source in summary.sources
        for name, digest in source.files or (("hub", ""),)
    ]
    parts = [
        f"# Corpus of {one_line(names)}",
        "The passages of these sources, each once, and the questions with their gold passages.\n\n"
        "Scores on this corpus do not compare with published ones. Those search all of Wikipedia "
        "(wiki-18: 21 million passages), where an answer is harder to find. Here every gold "
        "passage is present and few others are. Compare methods on this corpus with each other.",
        f"    {one_line(summary.command)}\n\nMade by tspo {__version__}.",
        "## Passages",
        _table(("`corpus.jsonl.gz`", ""), sizes),
        "An id is made of title and text: the same passage has the same id in every corpus. White "
        "space is single spaces, Unicode is composed (NFC). Passages are sorted by id.",
        "## Questions",
        _table(("file", "questions", "without gold passages", "types", "levels"), counts),
        _table(("questions that were left out", ""), summary.left_out.items())
        if summary.left_out
        else "No question was left out.",
        "## Sources",
        _table(("source", "questions", "file", "SHA-256"), files),
        "## Licences",
        _table(("set", "licence"), summary.sets.items()),
        "A file is of the set that its form or its records name. The licences are those of these "
        "sets, whose passages are from Wikipedia (CC BY-SA); data of your own have yours.",
    ]
    return "\n\n".join(parts) + "\n"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else one_line(str(value))
    return text.replace("|", "\\|")
