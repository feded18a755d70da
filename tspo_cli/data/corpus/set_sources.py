"""What `tspo data make-corpus` may be given: files, archives, folders, names and the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo_cli.data.benchmarks import benchmarks
from tspo_cli.data.catalog import CORPUS_FILES
from tspo_cli.data.formats.zipped import (
    MARK,
    archive_of,
    data_members,
    is_member,
    is_zip_name,
)
from tspo_cli.data.hub import PREFIX
from tspo_cli.data.readers import QUESTION_FILES, data_roots
from tspo_cli.errors import InvalidInputError, MissingResourceError

ALIAS_FILE = "id_aliases.json"
"""Names of entities by their Wikidata id, beside the files of 2WikiMultihopQA."""
_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "val": "dev", "test": "test"}
_HUB_SPLITS = {"dev": "validation"}
_WORD = re.compile("[a-z]+")


@dataclass(frozen=True, slots=True)
class Source:
    """Questions to read. `given` is what the user called the source, without its folder. With
    `corpus` the gold passages are in that file; without it, each question brings its own.
    """

    given: str
    rows: Path
    split: str
    aliases: Path | None = None
    corpus: Path | None = None

    @property
    def name(self) -> str:
        """Where its questions are."""
        if str(self.rows).startswith(PREFIX):
            return str(self.rows)
        return f"{self.given}/{self.rows.name}" if self.corpus else self.given

    @property
    def files(self) -> list[Path]:
        """The files on this machine that it consists of."""
        if str(self.rows).startswith(PREFIX):
            return []
        extra = (self.aliases, self.corpus)
        files = (archive_of(path) for path in (self.rows, *extra) if path is not None)
        return list(dict.fromkeys(files))


def find_sources(names: Sequence[str]) -> list[Source]:
    """The sources of all names in their order.

    A name is a file, ARCHIVE.zip or ARCHIVE.zip::MEMBER, a folder with questions and their corpus,
    hf:NAME[:CONFIG]:SPLIT, or NAME[:SPLIT] of a benchmark that the hub has with its paragraphs.

    Raises:
        MissingResourceError: there is no such file, folder, member or benchmark.
        InvalidInputError: an archive is damaged or has several files, or a file is HotpotQA's full
            wiki form, whose paragraphs a retriever chose.
    """
    return [source for name in names for source in _find(name)]


def _find(name: str) -> Iterator[Source]:
    if "fullwiki" in name.lower().rpartition("/")[2]:
        raise InvalidInputError(
            f"{name}: expected HotpotQA's distractor form, got the full wiki form: its paragraphs "
            "come from a retriever, which missed gold ones; fix: take "
            "hotpot_dev_distractor_v1.json, which has the same questions"
        )
    path = Path(name)
    if name.startswith(PREFIX):
        yield Source(name, path, _split_of(name.split(":")[-1]))
    elif is_member(path):
        yield _member(archive_of(path), name.partition(MARK)[2])
    elif path.is_dir():
        yield from _folder(path)
    elif path.is_file():
        yield _archive(path) if is_zip_name(path) else _file(path)
    else:
        yield from _named(name)


def _file(path: Path) -> Source:
    aliases = path.with_name(ALIAS_FILE)
    split = _split_of(path.name) or _SPLITS.get(path.resolve().parent.name.lower(), "")
    return Source(path.name, path, split, aliases if aliases.is_file() else None)


def _archive(path: Path) -> Source:
    members = [name for name in data_members(path) if not name.endswith(ALIAS_FILE)]
    if len(members) != 1:
        inside = ", ".join(members[:8]) or "no JSON file"
        raise InvalidInputError(
            f"{path}: expected one file of questions in the archive, got {inside}; fix: name the "
            f"file, as in {path.name}{MARK}{members[0] if members else 'train.json'}"
        )
    return _member(path, members[0])


def _member(archive: Path, member: str) -> Source:
    aliases = [name for name in data_members(archive) if Path(name).name == ALIAS_FILE]
    return Source(
        f"{archive.name}{MARK}{member}",
        _in(archive, member),
        _split_of(member),
        _in(archive, aliases[0]) if aliases else None,
    )


def _in(archive: Path, member: str) -> Path:
    return Path(f"{archive}{MARK}{member}")


def _folder(path: Path) -> Iterator[Source]:
    """The questions of a folder as we and others make them: with the corpus beside them."""
    corpus = next((path / name for name in CORPUS_FILES if (path / name).is_file()), None)
    named = [path / name for name in QUESTION_FILES if (path / name).is_file()][:1] or [
        file
        for split in ("train", "dev", "test")
        for file in (path / f"{split}.jsonl", path / f"{split}.jsonl.gz")
        if file.is_file()
    ]
    if corpus is None or not named:
        inside = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
        raise MissingResourceError(
            f"{path}: expected {QUESTION_FILES[0]}(.gz), or train and dev, beside "
            f"{CORPUS_FILES[0]}(.gz), got {inside}; name the files of questions themselves"
        )
    for file in named:
        yield Source(path.resolve().name, file, _split_of(file.name), corpus=corpus)


def _named(name: str) -> Iterator[Source]:
    for root in data_roots():
        if (root / name).is_dir():
            yield from _folder(root / name)
            return
    title, _, split = name.partition(":")
    known = benchmarks(data_roots())
    place = known[title].paragraphs if title in known else ""
    if not place:
        sets = ", ".join(entry.name for entry in known.values() if entry.paragraphs)
        raise MissingResourceError(
            f"{name}: no such file or folder, and no benchmark that brings paragraphs ({sets}); "
            "check the path"
        )
    split = split or known[title].split
    yield Source(name, Path(f"{place}:{_HUB_SPLITS.get(split, split)}"), _split_of(split))


def _split_of(name: str) -> str:
    """The split that a file name or a split of the hub speaks of; empty if it names none."""
    words = _WORD.findall(name.lower().rpartition("/")[2])
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")
