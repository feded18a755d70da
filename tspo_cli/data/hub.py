"""Records of a data set of the Hugging Face hub, or of a local folder that `datasets` can load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.hub_access import use_cache_without_network

PREFIX = "hf:"
ID_FIELDS = ("id", "_id", "question_id", "QuestionId")


def hub_rows(name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream (number from 1, record) of `hf:NAME:SPLIT` or `hf:NAME:CONFIG:SPLIT`.

    Records without an id, as in nq_open and Bamboogle, are numbered as in FlashRAG: test_0, test_1,
    and so on.

    Raises:
        InvalidInputError: the name has another form.
        MissingResourceError: the data set does not exist, is damaged, or cannot be read to its end.
    """
    return _stream(name, *hub_name(name))


def hub_name(name: str) -> tuple[str, str | None, str]:
    """Data set, configuration and split of `hf:NAME:SPLIT` or `hf:NAME:CONFIG:SPLIT`. Raises
    InvalidInputError for another form.
    """
    parts = name.removeprefix(PREFIX).split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidInputError(
            f"{name}: expected {PREFIX}NAME:SPLIT or {PREFIX}NAME:CONFIG:SPLIT, as on the hub"
        )
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1]


def _stream(
    name: str, repository: str, config: str | None, split: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    use_cache_without_network()
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(repository, config, split=split, streaming=True)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError, ValueError) as error:
        raise MissingResourceError(
            f"{name}: cannot be loaded: {_first_line(error)}; check the name and the connection, "
            "or name a file"
        ) from None
    for number, record in enumerate(_whole(name, rows), start=1):
        named = any(record.get(name) is not None for name in ID_FIELDS) or "extra_info" in record
        yield number, dict(record) if named else {**record, "id": f"{split}_{number - 1}"}


def _whole(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records, or one line about the one that could not be read. Readers of formats and
    clients of the network raise whatever they like.
    """
    records = iter(rows)
    count = 0
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except Exception as error:
            raise MissingResourceError(
                f"{name}: cannot be read after record {count}: {_first_line(error)}; check the "
                "connection and the files, then run the command again"
            ) from None
        count += 1
        yield record


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
