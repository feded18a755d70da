"""Read the records of a data file with their line numbers.

JSONL, JSON arrays and parquet are recognised by the first bytes of the file, CSV and TSV by its
name. All but parquet may be gzipped. JSONL and JSON arrays may be in a zip archive, as
ARCHIVE.zip::MEMBER. One object with a list of records is SQuAD's or TriviaQA's original file.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from functools import partial
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import BadZipFile

from pydantic_core import from_json

from tspo_cli.console import patiently
from tspo_cli.data.formats.delimited import (
    DECODER,
    HALF_ESCAPE,
    array_rows,
    delimiter_of,
    table_rows,
)
from tspo_cli.data.formats.nested import is_nested, nested_rows
from tspo_cli.data.formats.parquet_values import foreign_columns, json_value
from tspo_cli.data.formats.record_checks import (
    Row,
    ScannedRow,
    column_found,
    half_found,
    has_half,
    invalid,
    key_found,
    repeated_name,
    type_name,
)
from tspo_cli.data.formats.zipped import archive_of, is_member, is_zip_name, open_member
from tspo_cli.data.hub import PREFIX, hub_rows
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import is_plain, open_plain, refuse_pointer, why_missing
from tspo_cli.runs import LONGEST_LINE
from tspo_cli.text.repeated_keys import repeated_key
from tspo_cli.text.strict_json import decoded

Form = Literal["jsonl", "parquet", "array", "nested", "table"]
_GZIP = b"\x1f\x8b"
_PACKED = re.compile(rb"(?s:(BZh[1-9])|(\xfd7zX)|(\x28\xb5\x2f\xfd)|(7z\xbc\xaf)|(PK\x03\x04))")
_PACKERS = ("bzip2", "xz", "zstandard", "7z", "zip")
_ONE_OBJECT = "one JSON object per line"
_TORN = (EOFError, gzip.BadGzipFile, zlib.error, BadZipFile)


def read_rows(path: Path) -> Iterator[Row]:
    """Stream (number, record). The number is the line of a JSONL, CSV or TSV file, or the row of a
    parquet file or JSON array, from 1. A path that begins with hf: is a data set of the hub (see
    `hub_rows`).

    Only a single line, or a block of parquet or of an array, is in memory. Blank lines are skipped.

    Raises:
        MissingResourceError: the file does not exist (raised by the call, not by the first record).
        InvalidInputError: a line is not a JSON object in UTF-8, or the file is damaged. It is no
            file, or cannot be read (raised by the call).
    """
    return valid_rows(scan_rows(path))


def valid_rows(scanned: Iterator[ScannedRow]) -> Iterator[Row]:
    """The rows of `scan_rows`; raises the error of the first malformed one."""
    for number, record in scanned:
        if isinstance(record, InvalidInputError):
            try:
                raise record
            finally:  # its traceback has this frame, which would keep the file open
                del scanned, record
        yield number, record


def scan_rows(path: Path) -> Iterator[ScannedRow]:
    """`read_rows` that continues after a malformed line: it yields the error instead of the record.

    Raises:
        MissingResourceError: the file does not exist (raised by the call).
        InvalidInputError: it is no file, or cannot be read (raised by the call).
    """
    if str(path).startswith(PREFIX):
        return hub_rows(str(path))
    form = file_form(path)
    if form == "parquet":
        return _parquet_rows(path)
    return _json_rows(path) if form == "jsonl" else _text_rows(path, form)


def file_form(path: Path) -> Form:
    """How the records of a file are written.

    Raises:
        MissingResourceError: the file does not exist.
        InvalidInputError: it is no file, cannot be read, is packed otherwise than by gzip, or is a
            pointer of Git LFS.
    """
    _require_file(archive_of(path))
    if not is_member(path):
        refuse_pointer(path)
        magic = _magic(path)
        if magic == b"PAR1":
            return "parquet"
        if packed := _PACKED.match(magic):
            packer = _PACKERS[(packed.lastindex or 1) - 1]
            fix = f"name a file in it as {path}::NAME, or unpack it"
            fix = fix if is_zip_name(path) else "unpack it, or pack it with gzip"
            raise invalid(path, 1, "records, as they are or packed by gzip", packer, fix)
    if delimiter_of(path):
        return "table"
    try:
        with _open(path) as handle:
            start = handle.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    except _TORN:
        return "jsonl"  # its reader reports the damage
    if is_nested(start):
        return "nested"
    return "array" if start[:1] == b"[" else "jsonl"


def _text_rows(path: Path, form: Form) -> Iterator[ScannedRow]:
    """Records of a table, a JSON array, or an object with a list of records."""
    number = line_number = 0
    delimiter = delimiter_of(path)

    def lines(handle: IO[bytes]) -> Iterator[str]:
        nonlocal line_number
        read = _lines(path, handle)
        for line_number in count(1):
            line = next(read, None)
            if line is None:
                return
            yield _text(path, line_number, line)

    try:
        with _open(path) as handle:
            if delimiter:
                rows = table_rows(path, lines(handle), delimiter)
            else:
                read = nested_rows if form == "nested" else array_rows
                rows = read(path, TextIOWrapper(handle, encoding="utf-8-sig"))
            for number, record in rows:
                yield number, record
    except InvalidInputError as error:  # a line of a table that is no text, or has no end
        yield line_number, error
    except UnicodeDecodeError:
        yield (
            number + 1,
            invalid(path, number + 1, "UTF-8 text", "bytes that are not", "re-encode the file"),
        )
    except _TORN as error:
        yield number + 1, _damaged_data(path, number + 1, error)


def count_rows(path: Path) -> int:
    """The number of records. Those of JSONL and parquet are not parsed.

    Raises:
        MissingResourceError: the file does not exist.
        InvalidInputError: the file is damaged.
    """
    form = file_form(path)
    if form in ("array", "nested", "table"):
        return sum(1 for _ in read_rows(path))
    if form == "parquet":
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            return int(parquet.read_metadata(path).num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged_parquet(path, 1, error) from None
    with _open(path) as handle:
        try:
            return sum(not line.isspace() for line in _lines(path, handle))
        except _TORN as error:
            raise _damaged_data(path, 1, error) from None


def require_intact(path: Path) -> None:
    """Read a packed file to its end, where its checksum stands. What is not packed has none.

    Raises:
        InvalidInputError: it is damaged or cut.
    """
    if str(path).startswith(PREFIX) or not (is_member(path) or _magic(path)[:2] == _GZIP):
        return
    with _open(path) as handle:
        try:
            while handle.read(1 << 20):
                pass
        except _TORN as error:
            raise _damaged_data(path, 1, error) from None


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise InvalidInputError(
            f"{path}: expected a file, got a directory; name the JSONL or parquet file in it"
        )
    if not is_plain(path):
        raise MissingResourceError(f"{path}: {why_missing(path)}; check the path")


def _magic(path: Path) -> bytes:
    with open_plain(path) as handle:
        return handle.read(4)


def _open(path: Path) -> IO[bytes]:
    if is_member(path):
        return open_member(path)
    if _magic(path).startswith(_GZIP):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return open(path, "rb")


def _json_rows(path: Path) -> Iterator[ScannedRow]:
    number = 0
    with _open(path) as handle:
        try:
            for number, line in enumerate(_lines(path, handle), start=1):
                if line.isspace():
                    continue
                try:
                    record = from_json(line, allow_inf_nan=False)
                except ValueError:
                    record = _record(path, number, line)
                if isinstance(record, dict):
                    name = repeated_key(line, record)
                    yield number, record if name is None else key_found(path, number, name)
                elif isinstance(record, InvalidInputError):
                    yield number, record
                else:
                    fix = "correct the line"
                    yield number, invalid(path, number, _ONE_OBJECT, type_name(record), fix)
        except _TORN as error:
            yield number + 1, _damaged_data(path, number + 1, error)
        except InvalidInputError as error:  # a line without an end
            yield number + 1, error


def _lines(path: Path, handle: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file. Raises InvalidInputError for one that is longer than any record."""
    lines = iter(partial(handle.readline, LONGEST_LINE + 1), b"")
    for number, line in enumerate(patiently(lines, f"reading {path}"), start=1):
        if len(line) > LONGEST_LINE:
            what = f"lines of at most {LONGEST_LINE:,} bytes"
            raise invalid(path, number, what, "a longer one", "copy the file again")
        yield line


def _record(path: Path, number: int, line: bytes) -> Any:
    """The value of a line, which `from_json` did not read, or its error."""
    try:
        record = decoded(DECODER, _text(path, number, line))
    except InvalidInputError as error:
        return error
    except json.JSONDecodeError as error:
        place = min(error.pos, len(error.doc.rstrip("\r\n"))) + 1
        got = f"{error.msg.removesuffix(' at')} at column {place}"
        return invalid(path, number, _ONE_OBJECT, got, "correct the line")
    except (ValueError, RecursionError):  # a number of thousands of digits, lists thousands deep
        got = "a value that is too large or too deep"
        return invalid(path, number, _ONE_OBJECT, got, "correct the line")
    if (
        isinstance(record, dict)
        and b"\\u" in line
        and HALF_ESCAPE.search(line)
        and has_half(json.dumps(record, ensure_ascii=False))
    ):
        return half_found(path, number)
    return record


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        got = f"byte {error.start} that is not"
        raise invalid(path, number, "UTF-8 text", got, "re-encode the file") from None


def _parquet_rows(path: Path) -> Iterator[ScannedRow]:
    import pyarrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            twice = repeated_name(schema.names)
            if twice is not None:
                yield 1, column_found(path, 1, twice)
                return
            foreign = foreign_columns(schema)
            for batch in file.iter_batches(batch_size=4096):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record | {name: json_value(record[name]) for name in foreign}
    except UnicodeDecodeError:
        what = "bytes that are not, in this row or one of the next 4096"
        yield number + 1, invalid(path, number + 1, "UTF-8 text", what, "re-encode the file")
    except (pyarrow.ArrowException, OSError) as error:
        yield number + 1, _damaged_parquet(path, number + 1, error)
    except (ValueError, OverflowError) as error:  # a date, or a record, that Python cannot have
        what = "values that can be read, in this row and the next 4096"
        fix = "correct the value, or leave its column out"
        yield number + 1, invalid(path, number + 1, what, str(error).partition("\n")[0], fix)


def _damaged_data(path: Path, number: int, error: Exception) -> InvalidInputError:
    kind = "zip" if is_member(path) else "gzip"
    return invalid(path, number, f"intact {kind} data", str(error), "copy the file again")


def _damaged_parquet(path: Path, number: int, error: Exception) -> InvalidInputError:
    return invalid(
        path, number, "an intact parquet file", str(error).partition("\n")[0], "copy the file again"
    )
