"""What an unfinished evaluation has answered so far, line by line, so that it can go on after any
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
    """Records by key, each with the seconds it took, in `path` until `close`.

    The first line holds the signature of what is evaluated: records of another model, index or
    setting are refused.

    Raises:
        InvalidInputError: the file was begun under another signature.
    """

    def __init__(self, path: Path, signature: str) -> None:
        self.path = path
        self.done: dict[str, tuple[Record, float]] = {}
        lines = read_jsonl(path)
        if lines and lines[0] != {"signature": signature}:
            raise InvalidInputError(
                f"{path}: was begun with other settings ({lines[0].get('signature')}); resume with "
                "those, or add "
                "--overwrite to start again"
            )
        for line in lines[1:]:
            self.done[line["key"]] = (line["record"], line["seconds"])
        self._signature = signature
        # Without the torn line of a process that was killed while it wrote.
        self._write()

    def add(self, key: str, record: Record, seconds: float) -> None:
        """Keep one record; it is with the operating system when this returns."""
        self.done[key] = (record, seconds)
        append_jsonl(self.path, _line(key, record, seconds))

    def drop(self, keys: Iterable[str]) -> None:
        """Forget these records, as if they had never been answered."""
        for key in keys:
            del self.done[key]
        self._write()

    def close(self) -> None:
        """Forget everything: the results are written elsewhere now."""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        lines = [_line(key, *entry) for key, entry in self.done.items()]
        whole = [{"signature": self._signature}, *lines]
        atomic_write_text(
            self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in whole)
        )


def _line(key: str, record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    return {"key": key, "record": record, "seconds": seconds}
