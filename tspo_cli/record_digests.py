"""Digests of the records of runs and evaluations: what was changed after it was written is noticed
where it is read.

FOLDER/digests.jsonl    {"file", "bytes", "sha256"} for each record in FOLDER; of several lines for
                        one file the last counts. With "grows": true the file is still added to:
                        what follows its first `bytes` bytes is not covered.

A digest is written after its file, and dropped before the file is changed. So a process that is
killed leaves records without a digest, but none with a wrong one. A digest shows that a record was
changed, not who wrote it: who changes both is not noticed.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tspo_cli.digests import file_digest
from tspo_cli.disk import atomic_write_text, delete, writing
from tspo_cli.errors import InvalidInputError
from tspo_cli.plain_files import append_plain, read_plain, require_plain, unreadable
from tspo_cli.text.strict_json import json_text, parse_json

DIGESTS_NAME = "digests.jsonl"
_SHA256 = re.compile("[0-9a-f]{64}")
_NO_NAME = re.compile("[\0\ud800-\udfff]")
"""Characters that no name of a file has."""
ONE_THREAD = threading.RLock()
"""Held while digests change: the thread that watches the other processes writes a status too."""
_KEPT = 256
"""How many folders and large files a process remembers, so that it reads them once."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What was written: the size in bytes, and the digest of these bytes. `grows`: the file may
    have more than them.
    """

    size: int
    sha256: str
    grows: bool = False

    def fits(self, payload: bytes) -> bool:
        """True if a file with this content is what was written."""
        if len(payload) < self.size or (len(payload) > self.size and not self.grows):
            return False
        return hashlib.sha256(memoryview(payload)[: self.size]).hexdigest() == self.sha256


def read_checked(path: Path) -> bytes:
    """The content of a file, which is compared with its digest if it has one.

    Raises:
        InvalidInputError: the file was changed after it was written.
    """
    while True:
        known = digests_in(path.parent).get(path.name)
        payload = read_plain(path)
        if known is None or known.fits(payload):
            return payload
        _require_change(path, known)


def check_digest(path: Path) -> None:
    """Compare a file that is too large for memory with its digest, once in a process.

    Raises:
        InvalidInputError: the file was changed after it was written.
    """
    while known := digests_in(path.parent).get(path.name):
        state = path.stat()
        if known.grows:
            read_checked(path)
            return
        if state.st_size == known.size and known.sha256 == _digest_of(
            path, state.st_ino, state.st_size, state.st_mtime_ns
        ):
            return
        _require_change(path, known)


def check_complete(folder: Path) -> None:
    """Look for every record of a folder that has a digest.

    Raises:
        InvalidInputError: one is missing or no file; the message names it.
    """
    while known := digests_in(folder):
        for name in known:
            require_plain(folder / name)
        missing = next((name for name in known if not os.path.exists(folder / name)), None)
        if missing is None:
            return
        if digests_in(folder) == known:
            raise InvalidInputError(
                f"{folder / missing}: is missing, and {DIGESTS_NAME} has its digest; put back a "
                f"copy, or delete {folder / DIGESTS_NAME} to do without it"
            )


def _require_change(path: Path, known: Digest) -> None:
    """Raises InvalidInputError, unless the digest of a file that did not fit is another one now:
    then a run that goes on has just written the file again.
    """
    if digests_in(path.parent).get(path.name) == known:
        raise InvalidInputError(
            f"{path}: differs from its digest: one of them was changed after it was written; put "
            f"back a copy, or delete {path.parent / DIGESTS_NAME} to read it as it is"
        )


@contextmanager
def changing(*paths: Path, grows: bool = False) -> Iterator[None]:
    """Drop the digests of files of one folder, which the block writes, and note them afterwards."""
    forget_digests(*paths)
    yield
    note_digests(*paths, grows=grows)


def note_digests(*paths: Path, grows: bool = False) -> None:
    """Add the digests of files of one folder, which are whole on the disk. Missing files, and
    digests that stand there already, are left out.
    """
    with ONE_THREAD:
        known = digests_in(paths[0].parent)
        new = {
            path.name: Digest(path.stat().st_size, file_digest(path), grows)
            for path in paths
            if path.is_file()
        }
        lines = [_line(name, digest) for name, digest in new.items() if known.get(name) != digest]
        if lines:
            _append(paths[0].parent / DIGESTS_NAME, "".join(lines))


def forget_digests(*paths: Path) -> None:
    """Drop the digests of files of one folder, which are about to change or to be deleted."""
    names = {path.name for path in paths}
    with ONE_THREAD:
        known = digests_in(paths[0].parent) if paths else {}
        kept = {name: digest for name, digest in known.items() if name not in names}
        if kept != known:
            lines = (_line(name, digest) for name, digest in kept.items())
            atomic_write_text(paths[0].parent / DIGESTS_NAME, "".join(lines))
            _read.cache_clear()


def delete_folder(folder: Path) -> None:
    """Delete a folder of records, its digests first: a half deleted one lacks nothing. Of a link
    only the link.
    """
    if not folder.is_symlink():
        (folder / DIGESTS_NAME).unlink(missing_ok=True)
    delete(folder)


def digests_in(folder: Path) -> dict[str, Digest]:
    """The digests of a folder by the names of its files, as they stand now.

    Raises:
        InvalidInputError: the file of digests is damaged, or cannot be read.
    """
    path = folder / DIGESTS_NAME
    try:
        state = path.stat()
        return _read(path, state.st_ino, state.st_size, state.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:  # links that lead to each other
        raise InvalidInputError(unreadable(path, error)) from None


@lru_cache(_KEPT)
def _read(path: Path, inode: int, size: int, changed: int) -> dict[str, Digest]:
    """A torn last line, of a process that was killed, is left out."""
    *lines, _ = read_plain(path).split(b"\n")
    found = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        record = parse_json(line, where)
        match record:
            case {"file": str(name), "bytes": int(most), "sha256": str(digest)} if (
                _SHA256.fullmatch(digest)
                and name == Path(name).name not in ("", "..")
                and not _NO_NAME.search(name)
            ):
                found[name] = Digest(most, digest, record.get("grows") is True)
            case _:
                raise InvalidInputError(
                    f'{where}: expected {{"file", "bytes", "sha256"}}; put back a copy, or delete '
                    f"{path.name} to read the records unchecked"
                )
    return found


@lru_cache(_KEPT)
def _digest_of(path: Path, inode: int, size: int, changed: int) -> str:
    return file_digest(path)


def _line(name: str, digest: Digest) -> str:
    record = {"file": name, "bytes": digest.size, "sha256": digest.sha256}
    return json_text(record | ({"grows": True} if digest.grows else {})) + "\n"


def _append(path: Path, lines: str) -> None:
    """Append to a file whose last line may be torn."""
    with writing(path), append_plain(path) as handle:
        if end := handle.seek(0, os.SEEK_END):
            handle.seek(end - 1)
            if handle.read(1) != b"\n":
                handle.seek(0)
                handle.truncate(handle.read().rfind(b"\n") + 1)
        handle.write(lines.encode())
    _read.cache_clear()
