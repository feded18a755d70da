"""The finished answers of an unfinished evaluation, one per line. It can be resumed after any
interruption.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import append_jsonl, atomic_write_text, read_jsonl

Record = TypeVar("Record", bound=Mapping[str, Any])


class Journal(Generic[Record]):
    """Records by key, each with its seconds. The file `path` exists until `close`.

    The first line of the file is the signature of the evaluation.

    Raises:
        InvalidInputError: the file has another signature: of another model, index or setting.
    """

    def __init__(self, path: Path, signature: str) -> None:
        self.path = path
        self.done: dict[str, tuple[Record, float]] = {}
        lines = read_jsonl(path)
        if lines and lines[0] != {"signature": signature}:
            raise InvalidInputError(
                f"{path}: was begun with other settings ({lines[0].get('signature')}); resume with "
                "those, or add --overwrite to start again"
            )
        for line in lines[1:]:
            self.done[line["key"]] = (line["record"], line["seconds"])
        self._signature = signature
        # A killed process may have left an incomplete last line: write the file again without it.
        self._write()

    def add(self, key: str, record: Record, seconds: float) -> None:
        """Append one record to the file."""
        self.done[key] = (record, seconds)
        append_jsonl(self.path, _line(key, record, seconds))

    def drop(self, keys: Iterable[str]) -> None:
        """Remove these records."""
        for key in keys:
            del self.done[key]
        self._write()

    def close(self) -> None:
        """Delete the file: the results have been written."""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        lines = [_line(key, *entry) for key, entry in self.done.items()]
        records = [{"signature": self._signature}, *lines]
        atomic_write_text(
            self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records)
        )


def _line(key: str, record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    return {"key": key, "record": record, "seconds": seconds}
