"""`--table questions`: what became of the training questions of runs with `data.recycle` or
`data.curriculum`: how many came back, whether they taught anything then, and which came most often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tspo_cli.reporting.rendering.table import Column, Table, cells, percent
from tspo_cli.reporting.sources.run_view import RunView

SHOWN = 3
"""Questions of a run that the table names."""
_NUMBERS = {
    "drawn": "drawn",
    "seen": "different",
    "recycled": "came back",
    "recycled_questions": "questions that came back",
    "skipped": "left out",
}


def questions_table(views: Sequence[RunView]) -> Table:
    """One row for each run with a pool of questions."""
    records = [_record(view) for view in views if view.questions]
    return Table(
        name="questions",
        title="Training questions that came back or were left out",
        columns=(
            Column("run", False),
            *(Column(heading) for heading in _NUMBERS.values()),
            Column("taught then %"),
            Column("most often", False),
        ),
        rows=tuple(
            cells(
                [
                    record["run"],
                    *(str(record[name]) for name in _NUMBERS),
                    percent(record["recycled_signal"]),
                    ", ".join(
                        f"{entry['question']} ({entry['times']})" for entry in record["most"]
                    ),
                ]
            )
            for record in records
        ),
        records=records,
        notes=(
            "came back: draws of questions from which nothing was learnt before (data.recycle); "
            "taught then: share of these draws that gave a signal; left out: by data.curriculum, "
            "until the next epoch. RUN/questions.jsonl has every draw.",
        )
        if records
        else ("no run here was trained with data.recycle or data.curriculum",),
        fields=("run", *_NUMBERS, "recycled_signal"),
        flat=[{key: value for key, value in record.items() if key != "most"} for record in records],
    )


def _record(view: RunView) -> dict[str, Any]:
    drawn = [entry for line in view.questions for entry in line["drawn"]]
    back = [entry for entry in drawn if entry["from"] == "recycled"]
    names = Counter("/".join(entry["question"]) for entry in back)
    most = sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN]
    taught = sum(entry["signal"] for entry in back)
    return {
        "run": view.name,
        "drawn": len(drawn),
        "seen": len({tuple(entry["question"]) for entry in drawn}),
        "recycled": len(back),
        "recycled_questions": len(names),
        "skipped": sum(len(line["skipped"]) for line in view.questions),
        "recycled_signal": taught / len(back) if back else None,
        "most": [{"question": name, "times": times} for name, times in most],
    }
