"""Compare GRPO, TSPO and a trajectory bonus with a real model on real questions.

    python experiments/evidence/real/run.py --data SOURCE          start, runs, table, figure
    python experiments/evidence/real/run.py start --data SOURCE    corpus, index, warm start
    python experiments/evidence/real/run.py collect                results.csv, figure and tables

    --jobs N    trainings at a time (default: 1; each needs 7 GiB of memory)

SOURCE is what `make real DATA=` takes. Run it in the checkout with the environment's Python. It may
be stopped at any time; the same command goes on, and finished runs are kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

from experiments.evidence.real.figure import draw
from experiments.evidence.run import COLUMNS as SHARED
from experiments.evidence.run import (
    has_finished_runs,
    steps_of,
    sweep,
    sweep_rows,
    tspo,
    write_tables,
)
from experiments.real.run import prepare
from experiments.real.stages import HUB, WARM_START, RealOptions, WarmStart
from tspo_cli.commands.signals import all_is_in_order, end_on_signals
from tspo_cli.console import error
from tspo_cli.errors import TspoError
from tspo_cli.runs import METRICS_NAME, STATUS_NAME, read_jsonl, read_status

HERE = Path("experiments/evidence/real")
ROOT = Path("runs/evidence/real")
FOLDER = ROOT / "main"
MAIN = HERE / "main.sweep.toml"
CLASSES = ("all_correct", "mixed", "all_wrong_near_miss", "all_miss")
MEANS = (
    "reward",
    *(f"groups/{name}" for name in CLASSES),
    "groups/near_miss",
    "invalid_share",
)
"""Metrics of training of which a row has the mean over all steps."""
COLUMNS = (*SHARED, *(name.removeprefix("groups/") for name in MEANS))
WIDTH = 100
"""Columns of the page."""
HELD_OUT = 64
"""Questions that no training sees, as many as main.sweep.toml evaluates."""
DEMONSTRATIONS = 224
START = WarmStart("evidence/real/warmstart", ("--restate",), gold_only=True)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="all", choices=("all", "start", "collect"))
    parser.add_argument("--data", default=HUB, help=f"[{HUB}]")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    done = True
    if given.what != "collect":
        try:
            prepare(RealOptions(given.data, ROOT / "start", questions=HELD_OUT, dtype="float32"))
        except TspoError as failure:
            error(failure)
            sys.exit(failure.exit_code)
    if given.what == "all":
        done = sweep(MAIN, FOLDER, given.jobs)
    if given.what != "start":
        collect()
    sys.exit(0 if done else 1)


def collect() -> None:
    """Write results.csv, the figure, and the tables of the page, from what is finished."""
    tables: dict[str, str] = {}
    start = ROOT / "start" / WARM_START
    if (start / STATUS_NAME).exists() and read_status(start)["state"] == "finished":
        tables["start"] = tspo("report", str(start), "--format", "md")
    if has_finished_runs(FOLDER):
        record = json.loads(tspo("report", str(FOLDER), "--json"))
        rows = [_with_means(row, FOLDER) for row in sweep_rows(MAIN, record)]
        with open(HERE / "results.csv", "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        tables["main"] = tspo(
            "report", str(FOLDER), "--format", "md", "--step", str(steps_of(MAIN))
        )
        tables["training"] = _training_table(rows)
        draw(rows, _rewards(rows), _start_em(start), HERE / "ends.svg")
    write_tables(HERE / "README.md", {name: _wrapped(text) for name, text in tables.items()})


def _wrapped(table: str) -> str:
    """A table with its note in lines of the page's width."""
    lines = (line if line.startswith("|") else fill(line, WIDTH) for line in table.splitlines())
    return "\n".join(lines) + "\n"


def _with_means(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`row` with the means over all training steps of its run."""
    steps = read_jsonl(folder / row["arm"] / f"seed{row['seed']}" / METRICS_NAME)
    return row | {
        name.removeprefix("groups/"): round(fmean(step[name] for step in steps), 4)
        for name in MEANS
    }


def _rewards(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """The mean reward of every training step of every run, by arm."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        steps = read_jsonl(FOLDER / row["arm"] / f"seed{row['seed']}" / METRICS_NAME)
        found.setdefault(row["arm"], []).append([step["reward"] for step in steps])
    return found


def _start_em(start: Path) -> float:
    """EM of the last evaluation of the warm start, which is where all arms begin."""
    found = json.loads(tspo("report", str(start), "--json"))["rows"]
    return float(max(found, key=lambda row: row["step"])["em"])


def _training_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over the runs of each arm: F1 at the end, and what its training rollouts were."""
    names = ("f1", *(name.removeprefix("groups/") for name in MEANS), "train_cpu_seconds")
    last = max(row["step"] for row in rows)
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["step"] == last:
            arms.setdefault(row["arm"], []).append(row)
    lines = [
        f"| arm | {' | '.join(name.replace('_', ' ') for name in names)} |",
        f"| :--- |{' ---: |' * len(names)}",
    ]
    for arm, runs in arms.items():
        means = [fmean(float(run[name] or 0) for run in runs) for name in names]
        cells = [*(f"{mean:.3g}" for mean in means[:-1]), f"{means[-1]:,.0f}"]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    end_on_signals()
    try:
        main()
    finally:
        all_is_in_order()
