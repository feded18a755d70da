"""A file inside a zip archive, named ARCHIVE.zip::MEMBER."""

from __future__ import annotations

import errno
import io
import lzma
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import require_readable, why_missing

MARK = "::"
_SUFFIX = ".zip"
_DATA = (".json", ".jsonl")


def is_zip_name(path: Path) -> bool:
    """Whether a path names an archive by its suffix."""
    return path.name.lower().endswith(_SUFFIX)


def archive_of(path: Path) -> Path:
    """The archive of ARCHIVE.zip::MEMBER; any other path is itself."""
    parts = _parts(path)
    return parts[0] if parts else path


def is_member(path: Path) -> bool:
    """Whether a path is ARCHIVE.zip::MEMBER."""
    return _parts(path) is not None


def _parts(path: Path) -> tuple[Path, str] | None:
    archive, mark, member = str(path).partition(MARK)
    return (Path(archive), member) if mark and is_zip_name(Path(archive)) else None


def data_members(archive: Path) -> list[str]:
    """The names of the JSON and JSONL files in an archive, sorted.

    Raises:
        MissingResourceError: there is no such archive.
        InvalidInputError: it is damaged, no zip archive or cannot be read.
    """
    with _opened(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith(_DATA)]
    return sorted(name for name in names if not name.startswith("__MACOSX/"))


def open_member(path: Path) -> IO[bytes]:
    """The bytes of ARCHIVE.zip::MEMBER. MEMBER may lack its folders if it stays unique.

    Raises:
        MissingResourceError: there is no such archive, or no such member in it.
        InvalidInputError: the archive is damaged, encrypted or packed in a way that Python's
            zipfile does not know.
    """
    archive, member = _parts(path) or (path, "")
    with _opened(archive) as opened:
        found = [name for name in opened.namelist() if name == member] or [
            name for name in opened.namelist() if name.endswith(f"/{member}")
        ]
        if len(found) != 1:
            inside = ", ".join(data_members(archive)[:8]) or "no JSON file"
            raise MissingResourceError(
                f"{path}: {len(found) or 'no'} such file{'s' if found else ''} in the archive; it "
                f"holds {inside}"
            )
        try:
            with _damage_as_bad_zip():
                handle = opened.open(found[0])  # keeps the archive open until it is closed
        except (RuntimeError, zipfile.BadZipFile) as error:  # encrypted, or an unknown packing
            raise InvalidInputError(f"{path}: cannot be unpacked: {error}") from None
        return cast("IO[bytes]", io.BufferedReader(_Unpacked(handle)))


class _Unpacked(io.RawIOBase):
    """The bytes of a member. Whatever damage its unpacker meets is a BadZipFile."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _damage_as_bad_zip():
            data = self._packed.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._packed.close()
        super().close()


@contextmanager
def _damage_as_bad_zip() -> Iterator[None]:
    """Raise BadZipFile for each error by which Python's zipfile and its unpackers tell of damage:
    of names, places, lengths and packed data.
    """
    try:
        yield
    except (ValueError, struct.error, lzma.LZMAError, OverflowError) as error:
        raise zipfile.BadZipFile(str(error).lower()) from None
    except OSError as error:  # bz2 gives no number; EINVAL: a place before the file
        if error.errno not in (None, errno.EINVAL):
            raise
        raise zipfile.BadZipFile(str(error.strerror or error).lower()) from None


def _opened(archive: Path) -> zipfile.ZipFile:
    if not archive.is_file():
        raise MissingResourceError(f"{archive}: {why_missing(archive)}; check the path")
    require_readable(archive)
    try:
        with _damage_as_bad_zip():
            return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        reason = str(error).lower()
        raise InvalidInputError(
            f"{archive}: expected an intact zip archive, got {reason}; fix: copy the file again"
        ) from None
