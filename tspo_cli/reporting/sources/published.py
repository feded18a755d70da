"""Results that papers printed, with how certain each transcription is:
`data/published_results.csv`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.plain_files import is_plain

SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
CERTAINTY = {
    "Q": "read in the source",
    "D": "derived by arithmetic",
    "S": "second-hand notes about the source",
    "I": "inferred",
    "M": "general knowledge, not verified again",
}
STANDARD_PROTOCOL = "wiki-18, E5, top 3"
_PACKAGE = Path(__file__).resolve().parents[2]
_PLACES = (
    _PACKAGE.parent / "data" / "published_results.csv",
    _PACKAGE / "recipes" / "published_results.csv",
)


@dataclass(frozen=True, slots=True)
class Published:
    """One printed row. Scores are shares from 0 to 1, by data set; what the source does not say is
    absent.

    `average` is what the source prints, which need not be the mean of its scores; `certainty` is a
    key of `CERTAINTY`.
    """

    method: str
    size: str
    metric: str
    scores: dict[str, float]
    average: float | None
    certainty: str
    protocol: str
    source: str
    note: str

    @property
    def label(self) -> str:
        """Method and model size."""
        return f"{self.method}, {self.size}" if self.size else self.method

    @property
    def comparable(self) -> bool:
        """True where corpus, retriever and k are those that most papers share."""
        return self.protocol == STANDARD_PROTOCOL


def read_published(path: Path | None = None) -> list[Published]:
    """All rows, in the order of the file (by default the one that comes with tspo).

    Raises:
        MissingResourceError: the file is not there.
        InvalidInputError: a value is no share between 0 and 1, or a certainty mark is unknown.
    """
    path = path or next((place for place in _PLACES if place.is_file()), _PLACES[0])
    if not is_plain(path):
        raise MissingResourceError(f"{path}: no such file of published results")
    with open(path, encoding="utf-8", newline="") as handle:
        return [
            _row(record, f"{path}, line {line}")
            for line, record in enumerate(csv.DictReader(handle), start=2)
        ]


def choose_published(
    rows: Sequence[Published], words: Sequence[str], metric: str
) -> list[Published]:
    """Rows of `metric` that contain every word of one of `words`; `all` takes every row.

    Raises:
        UsageError: one of `words` finds nothing.
    """
    chosen: dict[int, Published] = {}
    for wanted in words:
        found = {
            place: row
            for place, row in enumerate(rows)
            if row.metric == metric and (wanted == "all" or _matches(row, wanted))
        }
        if not found:
            raise UsageError(
                f"--published {wanted}: no published {metric} row has these words; try 3B, 7B or "
                "all"
            )
        chosen |= found
    return [chosen[place] for place in sorted(chosen)]


def _matches(row: Published, wanted: str) -> bool:
    text = f"{row.label} {row.source} {row.protocol}".casefold()
    return all(word in text for word in wanted.casefold().split())


def _row(record: dict[str, str], where: str) -> Published:
    if record["certainty"] not in CERTAINTY:
        raise InvalidInputError(
            f"{where}: certainty {record['certainty']!r} is not one of {', '.join(CERTAINTY)}"
        )
    scores = {name: _share(record[name], where) for name in (*SETS, "average") if record[name]}
    return Published(
        method=record["method"],
        size=record["size"],
        metric=record["metric"],
        scores={name: value for name, value in scores.items() if name != "average"},
        average=scores.get("average"),
        certainty=record["certainty"],
        protocol=record["protocol"],
        source=record["source"],
        note=record["note"],
    )


def _share(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InvalidInputError(f"{where}: {text!r} is not a share between 0 and 1")
    return value
