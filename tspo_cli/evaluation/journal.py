"""What an unfinished evaluation has answered so far, line by line, so that it can go on after any interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import append_jsonl, atomic_write_text, read_jsonl

Record = dict[str, Any]


class Journal:
    """Records by key, each with the seconds it took, in `path` until `close`.

    The first line holds the signature of what is evaluated: records of another model, index or setting are refused.

    Raises:
        InvalidInputError: the file was begun under another signature.
    """

    def __init__(self, path: Path, signature: str) -> None:
        self.path = path
        self.done: dict[str, tuple[Record, float]] = {}
        lines = read_jsonl(path)
        if lines and lines[0] != {"signature": signature}:
            raise InvalidInputError(
                f"{path}: was begun with other settings ({lines[0].get('signature')}); resume with those, or add "
                "--overwrite to start again"
            )
        for line in lines[1:]:
            self.done[line["key"]] = (line["record"], line["seconds"])
        # Without the torn line of a process that was killed while it wrote.
        whole = [{"signature": signature}, *lines[1:]]
        atomic_write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in whole))

    def add(self, key: str, record: Record, seconds: float) -> None:
        """Keep one record; it is with the operating system when this returns."""
        self.done[key] = (record, seconds)
        append_jsonl(self.path, {"key": key, "record": record, "seconds": seconds})

    def close(self) -> None:
        """Forget everything: the results are written elsewhere now."""
        self.path.unlink(missing_ok=True)
