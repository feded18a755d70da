"""Writing where something lies already, where another process may write, or where the disk may be
full: the old thing stays whole until the new one stands, and an error names its file.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedRandom
from itertools import count
from pathlib import Path

from tspo_cli.console import STDOUT, byte_size
from tspo_cli.errors import InvalidInputError
from tspo_cli.plain_files import append_plain, open_plain, require_folder, shown_path

LOCK_NAME = ".lock"
"""The file in a directory that its only writer holds locked."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CUT = re.compile(r"\d+ requested and \d+ written")
_AT_WORKING_DIRECTORY, _EXCHANGE = -100, 2


class WriteError(OSError):
    """A file that could not be written whole. `needed`: its bytes, if they are known. `free`: those
    that the disk had then; later, what the command deletes is free as well.
    """

    needed: int | None = None
    free: int | None = None


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Name `path` in the error when it cannot be written because the disk is full, a quota is used
    up or a file is too large. Libraries hide that in errors of their own.

    Raises:
        WriteError: the file does not fit.
    """
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code is None:
            raise
        failure = WriteError(code, os.strerror(code), str(path))
        failure.needed, failure.free = needed, _free(path)
        raise failure from error


def atomic_write_bytes(path: Path, payload: bytes, mode: int = 0o666) -> None:
    """Write `path` whole or not at all: temporary file in the same folder, fsync, rename. The umask
    takes permissions from `mode`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with writing(path, len(payload)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb", opener=partial(os.open, mode=mode)) as handle:
                handle.write(payload)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except OSError as error:
            error.filename = str(path)  # the user does not know the other name
            raise
        finally:
            with suppress(OSError):  # a name that is too long has failed before
                temporary.unlink()


def atomic_write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """`atomic_write_bytes` in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"), mode)


def _code(error: Exception) -> int | None:
    """Which of _FULL an error stands for: one of the operating system, of numpy (which says only
    that a part was written), or of a library that quotes the system's words.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _FULL else None
    text = str(error)
    if isinstance(error, OSError) and _CUT.search(text):
        return errno.ENOSPC
    return next((code for code in _FULL if os.strerror(code) in text), None)


def reason(error: OSError) -> str:
    """An error of the operating system as one line: the file, what is wrong and, if there is no
    room, how much is needed and free.
    """
    text = error.strerror or str(error) or type(error).__name__
    name = f"{shown_path(error.filename)}: " if error.filename else ""
    line = f"{name}{text[0].lower()}{text[1:]}"
    needed = getattr(error, "needed", None)
    sizes = [f"{byte_size(needed)} are needed"] if needed else []
    on_disk = isinstance(error.filename, str) and error.filename != STDOUT
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and on_disk:
        was = getattr(error, "free", None)
        free = was if was is not None else _free(Path(error.filename))
        sizes += [f"{byte_size(free)} are free"] if free is not None else []
    if error.errno == errno.EFBIG:
        sizes += ["see ulimit -f"]
    return f"{line} ({', '.join(sizes)})" if sizes else line


def _free(path: Path) -> int | None:
    """Free bytes on the disk of `path`, which need not exist, None for what is not on a disk."""
    for folder in (path, *path.absolute().parents):
        if folder.is_dir():
            return shutil.disk_usage(folder).free
        if folder.exists() and not folder.is_file():
            return None
    return None


def reserve(path: Path) -> None:
    """Allocate every block of a file that is about to be written through mapped memory: where the
    disk is full, a mapped page without a block ends the process with SIGBUS.
    """
    with open(path, "r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file or folder is on the disk. A missing one is left out."""
    if not path.exists():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def follow_umask(path: Path) -> None:
    """Give a file, or every file in a folder, the permissions that a new file has there, so that
    those who may read the folder may read them. Some libraries write files for their owner alone.
    """
    folder = path if path.is_dir() else path.parent
    probe = folder / f".mode.{os.getpid()}.tmp"
    probe.touch(exist_ok=False)
    try:
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()
    for file in path.iterdir() if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(mode)


def replace_directory(new: Path, out: Path) -> None:
    """Rename the directory `new` to `out`, on the same disk, and delete what lay there. The folder
    of `new` is ours: what a killed process left in it is deleted.

    At every moment `out` is the old directory or the new one, also if the process is killed. On
    file systems that cannot exchange two names there is an instant without it, and a failure or
    signal in that instant puts the old one back. A link is replaced, not what it leads to.

    Raises:
        InvalidInputError: `out` is no directory.
    """
    require_folder(out)
    spare = new.with_name(f".{out.name}.old.tmp")
    delete(spare)
    if not os.path.lexists(out):
        os.replace(new, out)
        return
    os.replace(new, spare)
    if not _exchange(spare, out):
        aside = _free_name(out.with_name(f".{out.name}.replaced"))
        try:
            os.replace(out, aside)
            os.replace(spare, out)
        except BaseException:
            if not os.path.lexists(out):
                os.replace(aside, out)
            raise
        spare = aside
    with suppress(OSError):
        delete(spare)


def _free_name(path: Path) -> Path:
    """`path`, or a name like it that nothing has: what has it may be the user's."""
    free = path
    for number in count(2):
        if not os.path.lexists(free):
            break
        free = path.with_name(f"{path.name}.{number}")
    return free


def place_to_replace(out: Path) -> Path:
    """Where a directory stands, behind links, that `replace_directory` is to replace.

    Raises:
        InvalidInputError: the working directory lies in it. It would go with the old one, and who
            works there would see nothing of the new one.
    """
    place = Path(os.path.realpath(out))
    with suppress(FileNotFoundError):  # the working directory was deleted
        if Path.cwd().is_relative_to(place):
            raise InvalidInputError(
                f"{out}: the working directory lies in it, and would be replaced with it; name a "
                "folder in it, or go to the folder above"
            )
    return place


def delete(path: Path) -> None:
    """Delete a directory with all that is in it, or a file, or a link but not what it leads to.
    Nothing is fine.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    if call is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    done = call(_AT_WORKING_DIRECTORY, names[0], _AT_WORKING_DIRECTORY, names[1], _EXCHANGE)
    return bool(done == 0)


@contextmanager
def one_writer(folder: Path, doing: str, target: Path | None = None) -> Iterator[int]:
    """Make `folder` and keep other writers out of it until the block ends. Gives the descriptor of
    the lock; processes that inherit it keep the folder locked until they end too. A new folder in
    which nothing was written is removed again.

    The operating system releases the lock when these processes have ended, however they end. On a
    file system without locks nothing keeps others out.

    Raises:
        InvalidInputError: another process writes there; `doing` says what it does. `target` is what
            is made in the folder, which is a hidden one beside it then; something else has its
            name.
    """
    if target is not None:
        _require_work(folder, target)
    is_new = not folder.exists()
    try:
        lock = _lock(folder)
    except BlockingIOError:
        raise InvalidInputError(
            f"{target or folder}: another process is {doing}; wait for it to end, or choose "
            "another --out"
        ) from None
    with lock:
        with suppress(OSError):  # a full disk
            lock.truncate(0)
            # Not through the buffer of the file, which would fail again when it is closed.
            os.write(lock.fileno(), socket.gethostname().encode())
        try:
            yield lock.fileno()
        finally:
            # The block may have deleted the folder, and the next writer's may stand there now.
            if is_new and _is_lock_of(lock, folder) and os.listdir(folder) == [LOCK_NAME]:
                shutil.rmtree(folder, ignore_errors=True)


def _require_work(folder: Path, target: Path) -> None:
    """Raises InvalidInputError where a folder to work in is there and no writer of ours began it:
    it would be deleted.
    """
    try:
        is_folder = stat.S_ISDIR(folder.lstat().st_mode)
        inside = os.listdir(folder) if is_folder else []
    except FileNotFoundError:  # also where the writer before deletes it just now
        return
    if not is_folder or (inside and LOCK_NAME not in inside):
        raise InvalidInputError(
            f"{folder}: {target} is written in a folder of this name first, and something else has "
            "it; rename it, or choose another --out"
        )


def delete_work(folder: Path) -> None:
    """Delete a folder that `one_writer` keeps, as far as possible. The lock, by which the next
    writer knows it, goes last.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name != LOCK_NAME:
                delete(path)
    shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> BufferedRandom:
    """The locked file of the only writer of a folder, which is made. A reader may hold it for an
    instant (`has_writer`), and the writer before may delete it with the folder.

    Raises:
        BlockingIOError: another process holds it.
        InvalidInputError: it is no file, or one that this user may not write.
    """
    failure: OSError = BlockingIOError()
    for wait in (0.02, 0.1, 0.0):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = append_plain(folder / LOCK_NAME, "remove it")
        except FileExistsError as error:
            is_file = os.path.lexists(folder) and not folder.is_dir()
            failure = error if is_file else BlockingIOError()
        except FileNotFoundError:  # the writer before deleted the folder
            failure = BlockingIOError()
        except PermissionError:
            if not os.path.exists(folder / LOCK_NAME):
                raise
            raise InvalidInputError(
                f"{folder}: {_owner(folder / LOCK_NAME)} wrote its {LOCK_NAME}, which this user "
                "may not write; get the right to write there, or choose another place"
            ) from None
        else:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_lock_of(lock, folder):
                    return lock
            except BlockingIOError:
                pass
            except OSError:  # a file system without locks
                return lock
            lock.close()
            failure = BlockingIOError()
        time.sleep(wait)
    raise failure


def _owner(path: Path) -> str:
    """Whose file it is, in words."""
    with suppress(KeyError, OSError):  # a user of another machine may have no name here
        return f"the user {path.owner()}"
    return "another user"


def _is_lock_of(lock: BufferedRandom, folder: Path) -> bool:
    """True if the open file is the one that stands in the folder now."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK_NAME).stat())
    except FileNotFoundError:
        return False


@contextmanager
def new_directory(out: Path, doing: str, check: Callable[[], None]) -> Iterator[Path]:
    """Give the path of a directory to write. It takes the place of `out` when the block ends; if
    that fails, `out` stays as it is. One process does so at a time. `check` raises where `out` may
    not be replaced. It is called again after the work, which may take hours: somebody may have
    begun something else there.

    .NAME.tmp/NAME    the new directory, next to `out`

    Raises:
        InvalidInputError: another process writes `out`; `doing` says what it does.
    """
    place = place_to_replace(out)
    work = place.with_name(f".{place.name}.tmp")
    with one_writer(work, doing, out):
        shutil.rmtree(work / place.name, ignore_errors=True)
        try:
            check()
            yield work / place.name
            check()
            replace_directory(work / place.name, place)
        finally:
            delete_work(work)


def has_writer(folder: Path) -> bool | None:
    """True if `one_writer` keeps the folder, False if its last writer has ended. None where that
    cannot be known: the folder has no lock, or one that cannot be read, or its last writer was on
    another machine, whose locks some file systems do not show.
    """
    try:
        with open_plain(folder / LOCK_NAME) as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False if lock.read() == socket.gethostname().encode() else None
    except BlockingIOError:
        return True
    except (OSError, InvalidInputError):
        return None
