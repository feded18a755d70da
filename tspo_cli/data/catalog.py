"""The data sets in the data folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tspo_cli.data.convert import record_kind
from tspo_cli.data.readers import QUESTION_FILES
from tspo_cli.data.rows import count_rows, scan_rows

CORPUS_FILES = ("corpus.jsonl", "corpus.jsonl.gz", "corpus.parquet")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class DataSet:
    """A question file with its name. `corpus` is the corpus file in the same folder, if any."""

    name: str
    path: Path
    questions: int
    corpus: Path | None


def find_data_sets(roots: Iterable[Path]) -> list[DataSet]:
    """The question files in the root folders and in the folders directly below them, by root and
    name.

    The name is the one that `resolve_data` accepts: the folder for questions.jsonl(.gz) and
    questions.parquet, else the path below the root. A file whose first record is not a question is
    left out.

    Raises:
        InvalidInputError: a question file is damaged after its first record.
    """
    return [data_set for root in roots if root.is_dir() for data_set in _in_root(root)]


def _in_root(root: Path) -> Iterator[DataSet]:
    folders = [root, *sorted(child for child in root.iterdir() if child.is_dir())]
    for folder in folders:
        corpus = next((folder / name for name in CORPUS_FILES if (folder / name).is_file()), None)
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name.endswith(_SUFFIXES) and _holds_questions(path):
                name = path.parent if folder != root and path.name in QUESTION_FILES else path
                yield DataSet(name.relative_to(root).as_posix(), path, count_rows(path), corpus)


def _holds_questions(path: Path) -> bool:
    _, first = next(scan_rows(path), (0, None))
    return isinstance(first, dict) and record_kind(first) == "questions"
