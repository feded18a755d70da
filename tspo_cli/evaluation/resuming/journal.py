"""The finished answers of an unfinished evaluation, one per line. It can be resumed after any
interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from tspo_cli.disk import atomic_write_text
from tspo_cli.errors import InvalidInputError, MissingResourceError, RemoteServiceError
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.resuming.same_settings import SETTINGS, settings_of, what_differs
from tspo_cli.record_forms import ANSWERED, EVAL_TIMINGS, FINISHED, checked
from tspo_cli.rollout.records import read_items
from tspo_cli.runs import (
    EVAL_TIMINGS_NAME,
    append_jsonl,
    items_file,
    read_json,
    read_jsonl,
)
from tspo_cli.text.strict_json import json_text

Record = TypeVar("Record", bound=Mapping[str, Any])
REFUSED_FIRST = 10
"""If the first questions, as many as this, are all refused, the evaluation ends."""


class Journal(Generic[Record]):
    """Records of a `form` by key, each with its seconds. The file `path` exists until `close`.

    The first line of the file is the signature of the evaluation, and the `settings` in it.

    Raises:
        InvalidInputError: the file has records and another signature: of another model, index or
            setting; or a record has another form.
    """

    def __init__(
        self,
        path: Path,
        signature: str,
        form: TypeAdapter[Any],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.done: dict[str, tuple[Record, float]] = {}
        lines = read_jsonl(path)
        before = lines[0].get("signature") if lines else None
        if len(lines) > 1 and before != signature:
            both = (settings_of(lines), settings or {})
            raise InvalidInputError(
                f"{path}: was begun with other settings: "
                f"{what_differs(str(before), signature, both)}; resume with those, or add "
                "--overwrite to start again"
            )
        for number, line in enumerate(lines[1:], start=2):
            where = f"{path}:{number}"
            checked(FINISHED, line, where)
            self.done[line["key"]] = (checked(form, line["record"], where), line["seconds"])
        self._head = {"signature": signature} | ({SETTINGS: settings} if settings else {})
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
        records = [self._head, *lines]
        atomic_write_text(self.path, "".join(json_text(line) + "\n" for line in records))


def _line(key: str, record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    return {"key": key, "record": record, "seconds": seconds}


def count_refused(records: Iterable[ItemRecord]) -> int:
    """How many of the records are refused."""
    return sum("refused" in record for record in records)


def is_lost(record: ItemRecord) -> bool:
    """Whether the server of the model refused the question, or did not answer it."""
    return "refused" in record or "unanswered" in record


def require_answers(name: str, questions: int, journal: Journal[ItemRecord]) -> None:
    """End the evaluation if the server has refused the first REFUSED_FIRST of `questions`, or all,
    or has not answered them.

    These records are dropped, so that --resume asks again.

    Raises:
        RemoteServiceError: with the server's message.
    """
    records = [record for record, _ in journal.done.values()]
    lost = sum(is_lost(record) for record in records)
    if not lost or lost < min(REFUSED_FIRST, questions) or lost < len(records):
        return
    refused, reason = records[-1].get("refused"), records[-1].get("unanswered")
    journal.drop(list(journal.done))
    which = "every question" if lost == questions else f"the first {lost} questions"
    what = "refused" if refused else "did not answer"
    raise RemoteServiceError(f"{name}: the server {what} {which}: {refused or reason}")


def ask_again(journal: Journal[ItemRecord], again: Callable[[ItemRecord], bool]) -> None:
    """Forget the records of an unfinished evaluation that `again` chooses."""
    journal.drop([key for key, (record, _) in journal.done.items() if again(record)])


def reopen(
    folder: Path, name: str, journal: Journal[ItemRecord], again: Callable[[ItemRecord], bool]
) -> None:
    """Take a finished evaluation back into its journal, without what `again` chooses. Its files
    stay until new ones replace them.

    Raises:
        InvalidInputError: its items or their seconds are damaged.
        MissingResourceError: one of the files is not there.
    """
    seconds, path = times_of(folder, name)["items"], items_file(folder, name)
    if not path.exists():
        raise MissingResourceError(f"{path}: no such file")
    for number, record in enumerate(read_items(path), start=1):
        item: ItemRecord = checked(ANSWERED, record, f"{path}:{number}")
        key = item["key"]
        if key not in seconds:
            raise _no_times(folder, key)
        if not again(item) and key not in journal.done:
            journal.add(key, item, seconds[key])


def read_times(folder: Path) -> dict[str, Any]:
    """Seconds per question of every data set in a folder of `tspo eval`, as `timings.json` has
    them.

    Raises:
        InvalidInputError: it is no such file. MissingResourceError: it is not there.
    """
    path = folder / EVAL_TIMINGS_NAME
    times: dict[str, Any] = checked(EVAL_TIMINGS, read_json(path), str(path))
    return times


def times_of(folder: Path, name: str) -> dict[str, Any]:
    """`read_times` of one data set. Raises as that does, also where it has none of the set."""
    times = read_times(folder)
    if name not in times:
        raise _no_times(folder, name)
    found: dict[str, Any] = times[name]
    return found


def _no_times(folder: Path, name: str) -> InvalidInputError:
    return InvalidInputError(
        f"{folder / EVAL_TIMINGS_NAME}: has no seconds of {name}; put back a copy, or evaluate "
        "anew with --overwrite"
    )
