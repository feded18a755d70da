"""Read the records of a data file with their line numbers.

JSONL, gzipped JSONL and parquet are recognised by the first bytes of the file.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from tspo_cli.data.hub import PREFIX, hub_rows
from tspo_cli.errors import InvalidInputError, MissingResourceError

Row = tuple[int, dict[str, Any]]
ScannedRow = tuple[int, dict[str, Any] | InvalidInputError]


def read_rows(path: Path) -> Iterator[Row]:
    """Stream (number, record). The number is the line of a JSONL file or the row of a parquet file,
    from 1. A path that begins with hf: is a data set of the hub (see `hub_rows`).

    Only a single line or parquet batch is in memory. Blank lines are skipped.

    Raises:
        MissingResourceError: the file does not exist (raised by the call, not by the first record).
        InvalidInputError: a line is not a JSON object in UTF-8, or the file is damaged.
    """
    return _valid_rows(scan_rows(path))


def _valid_rows(scanned: Iterator[ScannedRow]) -> Iterator[Row]:
    for number, record in scanned:
        if isinstance(record, InvalidInputError):
            raise record
        yield number, record


def scan_rows(path: Path) -> Iterator[ScannedRow]:
    """`read_rows` that continues after a malformed line: it yields the error instead of the record.

    Raises:
        MissingResourceError: the file does not exist (raised by the call).
    """
    if str(path).startswith(PREFIX):
        return hub_rows(str(path))
    _require_file(path)
    if _magic(path) == b"PAR1":
        return _parquet_rows(path)
    return _json_rows(path)


def count_rows(path: Path) -> int:
    """The number of records. They are not parsed.

    Raises:
        MissingResourceError: the file does not exist.
        InvalidInputError: the file is damaged.
    """
    _require_file(path)
    if _magic(path) == b"PAR1":
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            return int(parquet.read_metadata(path).num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged_parquet(path, 1, error) from None
    with _open(path) as handle:
        try:
            return sum(not line.isspace() for line in handle)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _damaged_gzip(path, 1, error) from None


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise MissingResourceError(
            f"{path}: expected a file, got a directory; name the JSONL or parquet file in it"
        )
    if not path.is_file():
        raise MissingResourceError(f"{path}: no such file; check the path")


def _magic(path: Path) -> bytes:
    with open(path, "rb") as handle:
        return handle.read(4)


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if _magic(path).startswith(b"\x1f\x8b") else open(path, "rb")


def _json_rows(path: Path) -> Iterator[ScannedRow]:
    number = 0
    with _open(path) as handle:
        try:
            for number, line in enumerate(handle, start=1):
                if not line.isspace():
                    yield number, _record(path, number, line)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield number + 1, _damaged_gzip(path, number + 1, error)


def _record(path: Path, number: int, line: bytes) -> dict[str, Any] | InvalidInputError:
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return invalid(
            path, number, "UTF-8 text", f"byte {error.start} that is not", "re-encode the file"
        )
    except json.JSONDecodeError as error:
        got = f"{error.msg} at column {error.colno}"
        return invalid(path, number, "one JSON object per line", got, "correct the line")
    except (ValueError, RecursionError):  # a number of thousands of digits, lists thousands deep
        return invalid(
            path,
            number,
            "one JSON object per line",
            "a value that is too large or too deep",
            "correct the line",
        )
    if not isinstance(record, dict):
        return invalid(
            path, number, "one JSON object per line", type_name(record), "correct the line"
        )
    return record


def _parquet_rows(path: Path) -> Iterator[ScannedRow]:
    import pyarrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        yield number + 1, _damaged_parquet(path, number + 1, error)


def _damaged_gzip(path: Path, number: int, error: Exception) -> InvalidInputError:
    return invalid(path, number, "intact gzip data", str(error), "copy the file again")


def _damaged_parquet(path: Path, number: int, error: Exception) -> InvalidInputError:
    return invalid(
        path, number, "an intact parquet file", str(error).splitlines()[0], "copy the file again"
    )


def invalid(path: Path, number: int, expected: str, got: str, fix: str) -> InvalidInputError:
    """The error of a record: file and line, what was expected, what it has, and how to fix it."""
    return InvalidInputError(f"{path}:{number}: expected {expected}, got {got}; fix: {fix}")


def type_name(value: Any) -> str:
    """The JSON name of the type of `value`."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def text_id(path: Path, number: int, value: Any, name: str = "id") -> str:
    """An id as a string; whole numbers are accepted."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        got = "an empty string" if value == "" else type_name(value)
        raise invalid(
            path,
            number,
            f'"{name}" to be a string or a whole number',
            got,
            "give every record an id",
        )
    return value


class SeenIds:
    """The first line of each id.

    Ids that increase by one from line to line, as in wiki-18 with its 21 million passages, need no
    memory.
    """

    def __init__(self) -> None:
        self._offset: int | None = None
        self._run_start = 0
        self._run_end = 0
        self._lines: dict[str, int] = {}

    def first_line(self, identifier: str, number: int) -> int | None:
        """The earlier line with this id. Without one, store `number` and return None."""
        value = (
            int(identifier)
            if len(identifier) < 19 and identifier.isascii() and identifier.isdecimal()
            else None
        )
        if value is not None and str(value) == identifier:
            if self._offset is None:
                self._offset, self._run_start, self._run_end = value - number, value, value
            if self._run_start <= value < self._run_end:
                return value - self._offset
            if value == self._run_end == number + self._offset:
                self._run_end += 1
                return self._lines.get(identifier)
        earlier = self._lines.setdefault(identifier, number)
        return earlier if earlier != number else None
