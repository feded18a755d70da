"""Run everything that this folder reports, from scratch.

    python experiments/evidence/run.py            worlds, starts, (a) to (c), tables, figures
    python experiments/evidence/run.py starts     worlds and starts, which every experiment needs
    python experiments/evidence/run.py grid       the learning-rate grid (worlds and starts too)
    python experiments/evidence/run.py ablations  options of TSPO (d) and group sizes (e)
    python experiments/evidence/run.py collect    results.csv, figures and tables of finished runs

    --jobs N                                      trainings at a time (default: one for each core)

Run it in the checkout with the environment's Python. Run it again to continue: finished runs are
kept.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from experiments.evidence import prepare
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sweeps.sweep_cells import read_sweep

HERE = Path("experiments/evidence")
PAGES = (HERE / "README.md", HERE / "learning_rates.md")
ROOT = prepare.ROOT
STARTS = ("starts", "starts_easy")
EXPERIMENTS = ("hard", "easy", "two_hop")
GRIDS = ("lr_hard",)
ABLATIONS = ("ablations", "group_size")
PARTS = {"all": EXPERIMENTS, "starts": (), "grid": GRIDS, "ablations": ABLATIONS}
COLUMNS = (
    *("experiment", "config", "algorithm", "arm", "start", "lr", "seed", "step", "em", "f1", "n"),
    *("searches", "no_answer_share", "train_tokens", "train_cpu_seconds"),
)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="all", choices=(*PARTS, "collect"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    failed: list[str] = []
    if options.what != "collect":
        prepare.main()
        wanted = (*STARTS, *PARTS[options.what])
        failed = [name for name in wanted if not sweep(_file(name), ROOT / name, options.jobs)]
        if failed:
            print(f"cells failed in {', '.join(failed)}; see {ROOT}/*/logs", file=sys.stderr)
    if options.what != "starts":
        collect()
    sys.exit(1 if failed else 0)


def collect() -> None:
    """Write results.csv, the figures, and the tables of the pages."""
    rows: list[dict[str, Any]] = []
    tables = {}
    for name in (*EXPERIMENTS, *GRIDS, *ABLATIONS):
        if not has_finished_runs(ROOT / name):
            continue
        record = json.loads(
            tspo("report", str(ROOT / name), "--json", "--figure", str(HERE / f"{name}.svg"))
        )
        rows += sweep_rows(_file(name), record)
        tables[name] = tspo(
            "report", str(ROOT / name), "--format", "md", "--step", str(steps_of(_file(name)))
        )
    tables["cost"] = _cost_table(rows)
    with open(HERE / "results.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for page in PAGES:
        write_tables(page, tables)


def write_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Replace the tables of `page`: what is between `<!-- table NAME -->` and `<!-- end -->`."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- table {name} -->\n", "<!-- end -->"
        if begin in text:
            before, _, after = text.partition(begin)
            text = before + begin + table + end + after.partition(end)[2]
    page.write_text(text, encoding="utf-8")


def sweep_rows(file: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Every evaluation of every finished run of the sweep `file`, from its report in JSON."""
    name = file.name.removesuffix(".sweep.toml")
    finished = {run["run"]: run for run in record["sweep"]["runs"] if run["state"] == "finished"}
    rows = []
    for row in record["rows"]:
        run = finished.get(row["run"])
        if run is None:
            continue
        config = f"{file.as_posix()}::{row['run'].rpartition('/')[0]}"
        if row["step"] > _config_steps(config):
            continue  # the run is an earlier, longer one: the sweep's experiment ends before
        rows.append(
            {
                "experiment": name,
                "config": config,
                "algorithm": row["algorithm"],
                "arm": run["arm"],
                "start": run["place"].get("start", ""),
                "lr": row["lr"],
                "seed": row["seed"],
                "step": row["step"],
                "em": row["em"],
                "f1": round(row["f1"], 6),
                "n": row["n"],
                "searches": round(row["searches"], 4),
                "no_answer_share": round(row["no_answer_share"], 4),
                "train_tokens": round(run["tokens"]),
                "train_cpu_seconds": ""
                if run["cpu_seconds"] is None
                else round(run["cpu_seconds"], 1),
            }
        )
    return rows


def _cost_table(rows: Sequence[dict[str, Any]]) -> str:
    """Part (g): sampled tokens and CPU-seconds of training per point of EM that is gained between
    the first and the last evaluation.
    """
    runs: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for _, curve in itertools.groupby(rows, key=lambda row: (row["config"], row["seed"])):
        steps = list(curve)
        runs.setdefault((steps[0]["experiment"], steps[0]["arm"]), []).append(steps)
    lines = [
        "| experiment | arm | EM points gained | tokens a point | CPU s a point |",
        "| :--- | :--- | ---: | ---: | ---: |",
    ]
    for (experiment, arm), curves in runs.items():
        if experiment in EXPERIMENTS:
            points = 100 * sum(steps[-1]["em"] - steps[0]["em"] for steps in curves)
            tokens = sum(steps[0]["train_tokens"] for steps in curves) / points
            seconds = sum(steps[0]["train_cpu_seconds"] for steps in curves) / points
            lines.append(
                f"| {experiment} | {arm} | {points / len(curves):.1f} | {tokens:,.0f} | "
                f"{seconds:.2f} |"
            )
    return "\n".join(lines) + "\n"


def has_finished_runs(folder: Path) -> bool:
    """True if the sweep in `folder` has something to report."""
    states = (
        json.loads(path.read_text(encoding="utf-8"))["state"]
        for path in folder.glob("**/status.json")
    )
    return (folder / "sweep.json").exists() and "finished" in states


def sweep(file: Path, out: Path, jobs: int) -> bool:
    """Train what is missing of a sweep, `jobs` runs at a time. False: a run failed."""
    arguments = ["sweep", str(file), "--out", str(out), "--jobs", str(jobs)]
    return (
        subprocess.run([sys.executable, "-m", "tspo_cli", *arguments], check=False).returncode == 0
    )


@cache
def _config_steps(config: str) -> int:
    return load_config([config]).train.steps


def steps_of(file: Path) -> int:
    """Steps of the shortest run of a sweep."""
    return min(cell.config.train.steps for cell in read_sweep(file).cells)


def _file(name: str) -> Path:
    return HERE / f"{name}.sweep.toml"


def tspo(*arguments: str) -> str:
    """Standard output of a tspo command that has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "tspo_cli", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
