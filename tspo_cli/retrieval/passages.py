"""Passages on disk, fetched by position. Only fetched passages become Python objects."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tspo_cli.console import agreeing, counted, say, track
from tspo_cli.data.corpus.chunks import WHOLE, Chunking
from tspo_cli.data.corpus.corpus_files import CorpusFacts, passages_of, read_documents
from tspo_cli.data.corpus.passage_forms import has_id, parse_passage
from tspo_cli.data.formats.record_checks import invalid
from tspo_cli.data.question import Passage
from tspo_cli.disk import writing
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.mapped_array import map_array

PASSAGES_NAME = "passages.jsonl"
OFFSETS_NAME = "offsets.npy"
_ROW = np.dtype([("end", "<i8"), ("crc", "<u4")])
"""Per line: the byte offset of its end, and its CRC-32. One row comes before the first line."""
_ROWS_AT_ONCE = 1 << 16


def write_passages(
    corpus: Sequence[Path],
    directory: Path,
    chunking: Chunking = WHOLE,
    *,
    skip_duplicates: bool = False,
) -> CorpusFacts:
    """Write a corpus as `passages.jsonl` (`{"id", "contents"}` per line) and `offsets.npy`
    ([passages + 1] of _ROW).

    A document that was already there, with the same id and contents, is left out; this is said.
    With `skip_duplicates` the first document of each id stays, whatever the others hold.
    Memory holds one passage at a time, and the ids that occur twice; a scratch file has 8 bytes of
    each id.

    Raises:
        MissingResourceError, InvalidInputError: as `read_corpus`.
        InvalidInputError: documents with the same id differ, without `skip_duplicates`; or the
            part of a document has the id of another document and another text.
    """
    facts = CorpusFacts()
    first = _FirstOf(skip_duplicates)
    repeated = _write(corpus, directory, chunking, facts, frozenset(), first)
    if repeated:
        # Only now it is known which ids occur twice: the corpus is read again with an eye on them.
        facts = CorpusFacts()
        _write(corpus, directory, chunking, facts, repeated, first)
    for remark in facts.remarks():
        say(remark)
    return facts


def _write(
    corpus: Sequence[Path],
    directory: Path,
    chunking: Chunking,
    facts: CorpusFacts,
    repeated: frozenset[bytes],
    first: _FirstOf,
) -> frozenset[bytes]:
    """Write the files of `write_passages`, with one document of each id in `repeated`.

    Returns the digests of other ids that occur twice. If there are any, nothing is complete.
    """
    digests = directory / ".ids"
    # The offsets table is written last. If it exists, so do all passages,
    # and a killed build resumes there.
    with writing(directory / PASSAGES_NAME), OffsetsWriter(directory / OFFSETS_NAME) as offsets:
        with open(directory / PASSAGES_NAME, "wb") as handle, open(digests, "wb") as ids:
            documents = read_documents(corpus, facts)
            for file, number, document in track(documents, "reading passages"):
                digest = _digest(document.id)
                ids.write(digest)
                if digest in repeated and first.has(file, number, document):
                    continue
                for passage in passages_of(document, chunking, facts):
                    if passage.id != document.id:
                        digest = _digest(passage.id)
                        ids.write(digest)
                        if digest in repeated and first.has(file, number, passage, part=True):
                            continue
                    record = {"id": passage.id, "contents": passage.contents}
                    # "replace": a lone surrogate, which JSON can spell, could not be served again.
                    text = json.dumps(record, ensure_ascii=False)
                    line = text.encode("utf-8", "replace") + b"\n"
                    handle.write(line)
                    offsets.add(line)
        more = frozenset[bytes]() if repeated else _repeated(digests)
        offsets.complete = not more
        digests.unlink()
        first.report()
    return more


def passage_bytes(contents: str) -> int:
    """About how many bytes an index keeps for a passage beside its search structures."""
    return len(json.dumps(contents, ensure_ascii=False).encode("utf-8", "replace")) + 50


def _digest(identifier: str) -> bytes:
    return hashlib.blake2b(identifier.encode("utf-8", "replace"), digest_size=8).digest()


class _FirstOf:
    """The first document of each id that occurs twice, and what the others are. Parts of documents
    have ids too, and may not share them with another document.
    """

    def __init__(self, skip_different: bool) -> None:
        self._skip_different = skip_different
        self._seen: dict[str, tuple[Path, int, bytes, bool]] = {}
        self._same = 0
        self._others = 0
        self._different: set[str] = set()
        self._error: InvalidInputError | None = None

    def has(self, file: Path, number: int, passage: Passage, *, part: bool = False) -> bool:
        """Whether a passage with this id was there; otherwise remember this one. `part`: it is a
        part of a document.
        """
        text = hashlib.blake2b(passage.contents.encode("utf-8", "replace"), digest_size=16).digest()
        known = (file, number, text, part)
        earlier = self._seen.get(passage.id)
        if earlier is None:
            self._seen[passage.id] = known
            return False
        if earlier[2] == text:
            self._same += 1
        else:
            self._others += 1
            self._different.add(passage.id)
            line = f"line {earlier[1]}" if earlier[0] == file else f"{earlier[0]}:{earlier[1]}"
            fix = "rename or remove one; --skip-duplicates keeps the first of each id"
            if part or earlier[3]:
                fix = "rename one; parts of a long document are named after it, with #0, #1, ..."
            elif self._skip_different:
                return True
            self._error = self._error or invalid(
                file,
                number,
                "ids that differ",
                f"{passage.id!r} as on {line} with another text",
                fix,
            )
        return True

    def report(self) -> None:
        """Say how many passages were left out. Raises InvalidInputError if any differ and may
        not be skipped.
        """
        if self._error is not None:
            raise InvalidInputError(
                f"{self._error} ("
                f"{agreeing(len(self._different), 'id has', 'ids have')} different texts, "
                f"{agreeing(self._same, 'passage is', 'passages are')} identical to an earlier one)"
            )
        if self._others:
            say(
                f"{agreeing(self._others, 'passage has', 'passages have')} the id of an earlier "
                f"one with another text and {'was' if self._others == 1 else 'were'} left out "
                f"({counted(len(self._different), 'id')})"
            )
        if self._same:
            one = "passage is identical to an earlier one and was left out"
            several = "passages are identical to an earlier one and were left out"
            say(agreeing(self._same, one, several))


def _repeated(path: Path) -> frozenset[bytes]:
    """The 8-byte digests that a file has twice. Sorts it in place, in mapped memory."""
    numbers = np.memmap(path, np.uint64, mode="r+")
    numbers.sort()
    starts = range(0, len(numbers) - 1, _ROWS_AT_ONCE)
    blocks = (numbers[at : at + _ROWS_AT_ONCE + 1] for at in starts)
    return frozenset(
        number.tobytes() for block in blocks for number in block[1:][np.diff(block) == 0]
    )


def write_offsets(lines: Path, directory: Path) -> int:
    """Write the offsets of a JSONL file that is served without a copy; returns its passages.

    Every line has to be a passage: row n of the table is line n + 1.

    Raises:
        InvalidInputError: a line is blank, malformed, or no passage.
    """
    path = directory / OFFSETS_NAME
    with writing(path), open(lines, "rb") as handle, OffsetsWriter(path) as offsets:
        for position, line in enumerate(track(handle, "reading passages")):
            _passage(lines, position, line)
            offsets.add(line)
    return offsets.count


class OffsetsWriter:
    """Writes an offsets table row by row, so that memory does not grow with the corpus.

    The table appears when it is complete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scratch = path.with_name(path.name + ".rows")
        self._rows = np.zeros(_ROWS_AT_ONCE, _ROW)
        self._filled = 1
        self._end = 0
        self.complete = True
        """Whether the table may appear."""
        self.count = 0

    def __enter__(self) -> OffsetsWriter:
        self._handle: IO[bytes] = open(self._scratch, "wb")
        return self

    def add(self, line: bytes) -> None:
        """Add the next line, including its newline."""
        self._end += len(line)
        self.count += 1
        if self._filled == _ROWS_AT_ONCE:
            self._flush()
        self._rows[self._filled] = (self._end, zlib.crc32(line))
        self._filled += 1

    def _flush(self) -> None:
        self._handle.write(self._rows[: self._filled].tobytes())
        self._filled = 0

    def __exit__(self, kind: object, *details: object) -> None:
        self._flush()
        self._handle.close()
        if kind is None and self.complete:
            complete = self._path.with_name(f".{self._path.name}")
            with open(complete, "wb") as table:
                np.save(table, np.memmap(self._scratch, _ROW, mode="r"), allow_pickle=False)
            os.unlink(self._scratch)
            os.replace(complete, self._path)
        else:
            os.unlink(self._scratch)


class PassageStore:
    """Ids and contents by position, memory-mapped. Safe to read from several threads.

    Args:
        directory: the directory of the offsets table.
        lines: the JSONL file that the table describes. None: `passages.jsonl` in `directory`.

    Raises:
        InvalidInputError: the table does not describe this file.
    """

    def __init__(self, directory: Path, lines: Path | None = None) -> None:
        lines = lines or directory / PASSAGES_NAME
        rows = _offsets(directory / OFFSETS_NAME)
        self._ends: NDArray[np.int64] = rows["end"] if rows.dtype == _ROW else rows
        self._sums: NDArray[np.uint32] | None = rows["crc"] if rows.dtype == _ROW else None
        self._path = lines
        with open(lines, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            if size == 0 or size != self._ends[-1]:
                raise InvalidInputError(
                    f"{lines}: expected {self._ends[-1]} bytes, got {size}; build the index again"
                )
            self._lines = mmap.mmap(handle.fileno(), size, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def bytes(self) -> int:
        """Size of the passages and of their table on disk."""
        return len(self._lines) + len(self._ends) * _ROW.itemsize

    def __getitem__(self, position: int) -> tuple[str, str]:
        """(id, contents) of the passage at `position`, counted from 0.

        Raises:
            IndexError: there is no such position.
            InvalidInputError: the line differs from the one that was indexed.
        """
        if not 0 <= position < len(self):
            raise IndexError(position)
        start, end = int(self._ends[position]), int(self._ends[position + 1])
        if not 0 <= start < end <= len(self._lines):
            raise InvalidInputError(
                f"{self._path}:{position + 1}: {OFFSETS_NAME} names no line; build the index again"
            )
        line = self._lines[start:end]
        if self._sums is not None and zlib.crc32(line) != self._sums[position + 1]:
            raise InvalidInputError(
                f"{self._path}:{position + 1}: the passage is not the one that was indexed (its "
                "checksum differs); "
                "build the index again"
            )
        return _passage(self._path, position, line)

    def id(self, position: int) -> str:
        """The id of the passage at `position`. Raises as `__getitem__`."""
        return self[position][0]

    def contents(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The contents of the passages from `start` to before `stop`, in order."""
        return (self[position][1] for position in range(start, len(self) if stop is None else stop))

    def sample(self, count: int) -> list[str]:
        """The contents of at most `count` passages, evenly over all of them."""
        step = max(1, len(self) // count)
        return [self[position][1] for position in range(0, len(self), step)][:count]


def _offsets(path: Path) -> Any:
    """The table of `OffsetsWriter`, or the ends alone as an old index has them, mapped."""
    rows = map_array(path, (_ROW, np.dtype(np.int64)), 1)
    if not len(rows):
        raise InvalidInputError(f"{path}: expected one row per passage; build the index again")
    return rows


def _passage(path: Path, position: int, line: bytes) -> tuple[str, str]:
    """(id, contents) of a line in any form of `parse_passage`.

    The position replaces a missing id.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # also invalid UTF-8, and lists thousands of levels deep
        raise InvalidInputError(
            f"{path}:{position + 1}: expected one JSON object in UTF-8; correct the line"
        ) from None
    if (
        isinstance(record, dict)
        and isinstance(record.get("contents"), str)
        and isinstance(record.get("id"), str)
    ):
        identifier, contents = record["id"], record["contents"]
    elif isinstance(record, dict):
        known = record if has_id(record) else {"id": position, **record}
        passage = parse_passage(path, position + 1, known)
        identifier, contents = passage.id, passage.contents
    else:
        raise InvalidInputError(
            f"{path}:{position + 1}: expected one JSON object per line; correct the line"
        )
    return (identifier, contents) if contents.isascii() else (identifier, _well_formed(contents))


def _well_formed(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
