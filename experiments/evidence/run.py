"""Run everything that this folder reports, from scratch.

    python experiments/evidence/run.py            all of plan.md, in its order, tables, figures
    python experiments/evidence/run.py starts     worlds, indexes and the hard starts (a minute)
    python experiments/evidence/run.py starts_easy    also trains the easy starts, for (b)
    python experiments/evidence/run.py pairs      (a): TSPO and GRPO from the hard start
    python experiments/evidence/run.py two_hop    (c): TSPO and GRPO on two-hop questions
    python experiments/evidence/run.py wide       the wide grid of learning rates
    python experiments/evidence/run.py methods    (a) with the methods of 2026, trees and recycling
    python experiments/evidence/run.py ablations  options of TSPO (d) and group sizes (e)
    python experiments/evidence/run.py collect    results.csv, figures and tables of finished runs

    --jobs N                                      trainings at a time (default: one for each core)

Run it in the checkout with the environment's Python. Run it again to continue: finished runs are
kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from experiments.evidence import figures, prepare, tables
from tspo_cli.commands.signals import all_is_in_order, end_on_signals
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sweeps.sweep_cells import read_sweep
from tspo_cli.config.sweeps.sweep_file import SweepFile, read_sweep_file
from tspo_cli.demo.demo_processes import ended
from tspo_cli.models.checks.model_digest import model_digest
from tspo_cli.runs import ENVIRONMENT_NAME
from tspo_cli.training.launch.child_processes import child_command

HERE = Path("experiments/evidence")
PAGE, RESULTS = HERE / "README.md", HERE / "results.csv"
FIRST_SET = HERE / "native" / "results.csv"
ROOT = prepare.ROOT
# Warm starts that come with the checkout, and where the experiments look for them.
STARTS = {"a0": "hard/a/seed0", "b0": "hard/b/seed0", "a1": "hard/a/seed1"}
EXPERIMENTS = ("hard", "easy", "two_hop")
GRIDS = ("lr_wide", "lr_hard")
ABLATIONS = ("ablations", "group_size")
BOTH = ("grpo/*", "tspo/*")
PLANNED_PAIRS = {"hard": 40, "two_hop": 20}
NEW_ARMS = (
    *("a2tgpo", "mig", "tips", "siop", "cw_grpo", "stratified_grpo", "carl"),
    *("tree_grpo", "arpo", "at2po", "sipo", "recycling"),
)
# Sweeps in the order in which they are trained, with the cells that are wanted (none: all).
PARTS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "starts": (),
    "starts_easy": (),
    "pairs": (("hard", BOTH),),
    "two_hop": (("two_hop", BOTH),),
    "wide": (("lr_wide", ()),),
    "methods": (("hard", tuple(f"{arm}/*" for arm in NEW_ARMS)),),
    "ablations": (("ablations", ()), ("group_size", ())),
}
PARTS["all"] = (
    *(part for name in ("pairs", "two_hop", "wide", "methods") for part in PARTS[name]),
    *(("hard", ()), ("easy", ()), ("two_hop", ())),
)
COLUMNS = (
    *("experiment", "config", "algorithm", "arm", "start", "lr", "seed", "step", "em", "f1", "n"),
    *("searches", "no_answer_share", "train_tokens", "train_cpu_seconds"),
    "arithmetic",
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
        make_starts(options.jobs)
        if options.what == "starts_easy" or "easy" in dict(PARTS[options.what]):
            make_easy_starts(options.jobs)
        for name, cells in PARTS[options.what]:
            if not sweep(_file(name), ROOT / name, options.jobs, cells):
                failed.append(name)
        if failed:
            print(f"cells failed in {', '.join(failed)}; see {ROOT}/*/logs", file=sys.stderr)
    if options.what not in ("starts", "starts_easy"):
        collect()
    sys.exit(1 if failed else 0)


def make_starts(jobs: int) -> None:
    """Put the starts of the checkout where experiments look for them, and train the others.

    A start that is there already and differs is kept, and said: runs from it do not repeat rows of
    results.csv.
    """
    for name, place in STARTS.items():
        given, used = HERE / "starts" / name, ROOT / "starts" / place / "model"
        if not given.exists():
            continue
        if not used.exists():
            shutil.copytree(given, used)
        elif model_digest(str(given)) != model_digest(str(used)):
            print(
                f"{used} is not the start of results.csv ({given}): runs from it give other "
                f"results; delete {used.parent} to use that one",
                file=sys.stderr,
            )
    missing = [place for place in STARTS.values() if not (ROOT / "starts" / place).exists()]
    if missing:
        trained = ROOT / "starts_hard"
        sweep(_file("starts"), trained, jobs, missing)
        for place in missing:
            if (trained / place / "model").exists():
                shutil.copytree(trained / place / "model", ROOT / "starts" / place / "model")


def make_easy_starts(jobs: int) -> None:
    """Train the starts of the experiment `easy`."""
    sweep(_file("starts_easy"), ROOT / "starts_easy", jobs)


def collect() -> None:
    """Write results.csv, the figures, and the tables of the page.

    Rows of runs that are not on this machine stay.
    """
    rows = {(row["config"], row["seed"], row["step"]): row for row in tables.read_rows(RESULTS)}
    names = (*EXPERIMENTS, *GRIDS, *ABLATIONS)
    for name in names:
        if has_finished_runs(ROOT / name):
            record = json.loads(tspo("--quiet", "report", str(ROOT / name), "--json"))
            for row in sweep_rows(_file(name), record):
                text = {key: str(value) for key, value in row.items()}
                rows[text["config"], text["seed"], text["step"]] = text
    kept = sorted(rows.values(), key=_order)
    with open(RESULTS, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    first = tables.read_rows(FIRST_SET)
    made = {
        "findings": tables.findings(first, kept, PLANNED_PAIRS),
        "progress": tables.progress_table(kept, planned_runs()),
        "tests": tables.tests_table(kept, PLANNED_PAIRS),
        "methods": tables.methods_table(kept, "hard", NEW_ARMS),
        "replication": tables.replication_table(first, kept, "hard", 30),
        "cost": tables.cost_table(kept, EXPERIMENTS),
    }
    for name in names:
        grid = name in GRIDS
        baseline = _sweep_file(name).baseline
        found = tables.sweep_of(kept, name, baseline=baseline, grid=grid)
        if found.runs:
            figures.draw_curves(found, HERE / f"{name}.svg", without=NEW_ARMS)
            made[name] = tables.arms_table(found, last_step(kept, name))
    figures.draw_differences(kept, "hard", NEW_ARMS, HERE / "methods.svg")
    write_tables(PAGE, made)


def planned_runs() -> dict[tuple[str, str], int]:
    """Runs of every experiment and arm of the plan."""
    planned: dict[tuple[str, str], int] = {}
    for name in dict.fromkeys(name for name, _ in PARTS["all"]):
        for variant in _sweep_file(name).variants:
            key = name, variant.arm
            planned[key] = planned.get(key, 0) + len(variant.seeds)
    return planned


def last_step(rows: Sequence[Mapping[str, str]], name: str) -> int:
    """The last step that every finished run of an experiment was evaluated at."""
    ends: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["experiment"] == name:
            ends[row["config"], row["seed"]] = int(row["step"])
    return min(ends.values())


def _order(row: Mapping[str, str]) -> tuple[Any, ...]:
    names = (*EXPERIMENTS, *GRIDS, *ABLATIONS)
    arms = list(dict.fromkeys(variant.arm for variant in _sweep_file(row["experiment"]).variants))
    return (
        names.index(row["experiment"]),
        arms.index(row["arm"]),
        float(row["lr"]),
        int(row["seed"]),
        int(row["step"]),
    )


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
                "arithmetic": _arithmetic(Path(record["sweep"]["path"]) / row["run"]),
            }
        )
    return rows


def has_finished_runs(folder: Path) -> bool:
    """True if the sweep in `folder` has something to report."""
    states = (
        json.loads(path.read_text(encoding="utf-8"))["state"]
        for path in folder.glob("**/status.json")
    )
    return (folder / "sweep.json").exists() and "finished" in states


def sweep(file: Path, out: Path, jobs: int, cells: Sequence[str] = ()) -> bool:
    """Train what is missing of a sweep, `jobs` runs at a time, or of those of its cells whose names
    fit one of the patterns `cells`. False: a run failed.
    """
    only = [word for pattern in cells for word in ("--only", pattern)]
    arguments = ["sweep", str(file), "--out", str(out), "--jobs", str(jobs), *only]
    process = subprocess.Popen(child_command(arguments))
    with ended([process]):
        return process.wait() == 0


def _arithmetic(run: Path) -> str:
    """What computed a run: portable, or native with the instructions; empty where not recorded."""
    file = run / ENVIRONMENT_NAME
    record = json.loads(file.read_text("utf-8")).get("arithmetic", {}) if file.exists() else {}
    if record.get("mode") == "portable":
        return "portable"
    return f"{record['instructions']} on {record['processor']}" if record else ""


@cache
def _sweep_file(name: str) -> SweepFile:
    return read_sweep_file(_file(name))


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
    end_on_signals()
    try:
        main()
    finally:
        all_is_in_order()
