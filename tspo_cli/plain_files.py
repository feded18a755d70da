"""Opening records and files that a user names: what is no file is refused, never waited for."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom, BufferedReader, FileIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.errors import InvalidInputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_POINTER = b"version https://git-lfs.github.com/spec/"
_PUT_BACK = "put back a copy"
BAD_NAMES = (errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of the operating system that the name of a file is the cause of."""
LONGEST_NAME = 220
"""Bytes of a name to write. File systems take 255; temporary files beside it have longer ones."""
_LONGEST_PATH = 3_600
"""Bytes of a whole path to write. The system takes 4,095; the files in a run have longer ones."""
_SHOWN = 200
LARGEST = 2**30
"""Bytes of a file that is read whole. A file with holes fills no disk, and claims terabytes."""


class _NamedFile(FileIO):
    """A file whose errors name it, as of a disk that fails while it is read."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "rb")
        self._path = path

    def readinto(self, buffer: Buffer, /) -> int | None:
        with self._saying_which():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with self._saying_which():
            return super().readall()

    @contextmanager
    def _saying_which(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidInputError(unreadable(self._path, error)) from None


def open_plain(path: Path) -> BufferedReader:
    """A file to read, for binary reading; nothing else than a file is waited for.

    Raises:
        FileNotFoundError: there is nothing.
        InvalidInputError: a directory, pipe, socket or device stands there, or it cannot be read,
            now or when it is read.
    """
    try:
        # Without O_NONBLOCK, to open a pipe is to wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except ValueError:
        raise InvalidInputError(f"{path}: expected the name of a file, without NUL") from None
    except OSError as error:  # to open a socket fails
        require_plain(path)
        raise InvalidInputError(unreadable(path, error)) from None
    try:
        _require_plain(path, os.fstat(descriptor).st_mode)
    except InvalidInputError:
        os.close(descriptor)
        raise
    return BufferedReader(_NamedFile(descriptor, path))


def require_readable(path: Path) -> None:
    """Raises what `open_plain` does, for a file that a library opens."""
    open_plain(path).close()


def require_listable(path: Path) -> None:
    """Raises InvalidInputError for a directory whose files this user may not list: to look for one
    of them by a pattern finds nothing.
    """
    try:
        os.scandir(path).close()
    except OSError as error:
        raise InvalidInputError(unreadable(path, error)) from None


def named_like(folder: Path, pattern: str) -> list[Path]:
    """The entries of a folder whose names fit a pattern, sorted; none if there is no folder. What
    macOS leaves beside a copied file (`._NAME`) is none of them.

    Raises:
        InvalidInputError: this user may not list it, where `glob` finds nothing.
    """
    if folder.is_dir():
        require_listable(folder)
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("._"))


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and its folders, without hidden ones, sorted by their relative names.

    Raises:
        InvalidInputError: this user may not list one of the folders.
    """

    def refuse(error: OSError) -> None:
        raise InvalidInputError(unreadable(Path(error.filename), error))

    found = []
    for place, inner, names in os.walk(folder, onerror=refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def refuse_pointer(path: Path) -> None:
    """Refuse the text that Git LFS leaves in the place of a large file until it is fetched.

    Raises:
        InvalidInputError: it is one. Also as `open_plain`.
    """
    with open_plain(path) as handle:
        if handle.read(len(_POINTER)) == _POINTER:
            raise InvalidInputError(
                f"{path}: expected the file itself, got a Git LFS pointer to it; run `git lfs "
                "pull` in its repository"
            )


def cannot_be_read(error: OSError) -> str | None:
    """The line for an error whose cause is a file or folder that this user may not read, or may not
    look into; None for all others. (To look for a file in a closed folder fails, too.)
    """
    if error.errno != errno.EACCES or not isinstance(error.filename, str):
        return None
    path = Path(error.filename)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return unreadable(path, error)
    except OSError:
        pass
    return None


def why_missing(path: Path, otherwise: str = "no such file") -> str:
    """What is to say of a path at which no file is found: a link is there, and leads to nothing."""
    if not path.is_symlink():
        return otherwise
    return f"is a link to nothing ({shown_path(os.readlink(path))})"


def made_by(path: Path) -> str | None:
    """The command that makes what the recipes name: `runs/demo/index` is there after a demo. None
    for all other paths.
    """
    makers = {Path("runs/demo"): "`tspo demo`", Path("runs/real"): "`make real`"}
    return next((maker for folder, maker in makers.items() if path.is_relative_to(folder)), None)


def unreadable(path: Path, error: OSError) -> str:
    """The line that says of a file or folder that it cannot be read, and why."""
    advice = "; give this user the right to read it" if error.errno == errno.EACCES else ""
    return f"{shown_path(path)}: cannot be read ({error.strerror}){advice}"


def append_plain(path: Path, advice: str = _PUT_BACK) -> BufferedRandom:
    """A file to read and to append to, which is made if it is not there. A link is not followed: in
    a directory of somebody else it may lead to any file of ours. `advice` ends what a refusal says.

    Raises:
        InvalidInputError: a link, directory, pipe, socket or device stands there.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidInputError(f"{path}: expected a file, got a link; {advice}") from None
        require_plain(path, advice)
        raise
    try:
        _require_plain(path, os.fstat(descriptor).st_mode, advice)
    except InvalidInputError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "a+b")


def read_plain(path: Path) -> bytes:
    """The content of a file. InvalidInputError: above `LARGEST`, or what `open_plain` refuses."""
    with open_plain(path) as handle:
        refuse_too_large(path, handle.fileno())
        return handle.read()


def read_plain_text(path: Path) -> str:
    """The content of a file of text, with each end of a line as a newline and without a byte order
    mark; see `open_plain`.

    Raises:
        InvalidInputError: what `open_plain` refuses, or bytes that are no UTF-8.
    """
    try:
        with TextIOWrapper(open_plain(path), encoding="utf-8-sig") as handle:
            refuse_too_large(path, handle.fileno())
            return handle.read()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path}: not a UTF-8 text file") from None


def refuse_too_large(path: Path, descriptor: int) -> None:
    """Raises InvalidInputError for an open file above `LARGEST`, which is not read."""
    size = os.fstat(descriptor).st_size
    if size > LARGEST:
        raise InvalidInputError(
            f"{path}: expected at most {LARGEST:,} bytes, got {size:,}; {_PUT_BACK}"
        )


def require_plain(path: Path, advice: str = _PUT_BACK) -> None:
    """Raises InvalidInputError, with `advice`, where something else than a file stands."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing is there, or no path: to open it says so
        return
    _require_plain(path, mode, advice)


def require_writable_name(path: Path) -> None:
    """Raises InvalidInputError for a path at which nothing, or not all, of what we write there can
    be: it is too long, or no text (tokenizers refuse other names).
    """
    try:
        longest = max(len(part.encode()) for part in ("", *path.parts))
        length = len(str(path.absolute()).encode())
    except UnicodeEncodeError:
        raise InvalidInputError(f"{path}: expected a name in UTF-8; choose another place") from None
    for what, bytes_, most in (("name", longest, LONGEST_NAME), ("path", length, _LONGEST_PATH)):
        if bytes_ > most:
            raise InvalidInputError(
                f"{shown_path(path)}: expected a {what} of at most {most:,} bytes, got "
                f"{bytes_:,}; choose another place"
            )


def same_file_name(name: str) -> str:
    """What names have in common that are one file on some file system: on that of a laptop or of a
    memory stick, neither case nor the composition of letters counts.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def shown_path(path: Path | str) -> str:
    """A path as a line can show it: the middle of a very long one is left out."""
    text = str(path)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 4 :]}"


def is_plain(path: Path) -> bool:
    """Is there a file at a path that a user named?

    Raises:
        InvalidInputError: a directory, pipe, socket or device stands there.
    """
    require_plain(path, "name a file")
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # a text, of which no file has the name
            return False
        raise


def require_folder(path: Path, *, own: bool = False) -> None:
    """Raises InvalidInputError where something else than a directory stands: with `own` also a link
    to one, through which files would be written, moved or deleted.
    """
    if own and path.is_symlink():
        raise InvalidInputError(
            f"{path}: expected a directory, got a link; put a copy of it in its place, or delete it"
        )
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{path}: expected a directory; put back a copy, or delete it")


def _require_plain(path: Path, mode: int, advice: str = _PUT_BACK) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise InvalidInputError(f"{path}: expected a file, got {kind}; {advice}")
