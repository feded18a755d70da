"""Tables and figures of the evidence, from the rows of results.csv alone."""

from __future__ import annotations

import csv
import itertools
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import cast

from tspo_cli.evaluation.statistics.over_seeds import Paired, mean_interval, paired_difference
from tspo_cli.reporting.rendering.table import Format
from tspo_cli.reporting.scores.sweep_scores import SweepRun, SweepView, summaries
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.tables.sweep_table import render_sweep

Row = Mapping[str, str]
Pairs = dict[tuple[str, str, str], SweepRun]
"""Finished runs by arm, start and seed."""
FEWEST_PAIRS = 3
"""Below this the page says what the first set found."""


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a results.csv; none where it does not exist."""
    if not file.exists():
        return []
    with open(file, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def sweep_of(rows: Iterable[Row], name: str, *, baseline: str | None, grid: bool) -> SweepView:
    """The finished runs of the experiment `name` as a sweep that tspo can report."""
    mine = [row for row in rows if row["experiment"] == name]
    by_run = itertools.groupby(mine, key=lambda row: (row["config"], row["seed"]))
    runs = tuple(_run(list(curve), grid) for _, curve in by_run)
    return SweepView(Path(name), baseline, ("optimizer.lr",) if grid else (), runs, ())


def arms_table(sweep: SweepView, step: int) -> str:
    """Means, intervals and differences of every arm at `step`, in Markdown."""
    return render_sweep(sweep, summaries(sweep, step), Format.md, explained=False) + "\n"


def cost_table(rows: Sequence[Row], experiments: Sequence[str]) -> str:
    """Sampled tokens and CPU-seconds of training per point of EM that is gained between the first
    and the last evaluation.
    """
    runs: dict[tuple[str, str], list[list[Row]]] = {}
    for _, curve in itertools.groupby(rows, key=lambda row: (row["config"], row["seed"])):
        steps = list(curve)
        runs.setdefault((steps[0]["experiment"], steps[0]["arm"]), []).append(steps)
    lines = [
        "| experiment | arm | EM points gained | tokens a point | CPU s a point |",
        "| :--- | :--- | ---: | ---: | ---: |",
    ]
    for (experiment, arm), curves in runs.items():
        if experiment in experiments:
            points = 100 * sum(float(c[-1]["em"]) - float(c[0]["em"]) for c in curves)
            tokens = sum(float(c[0]["train_tokens"]) for c in curves) / points
            seconds = sum(float(c[0]["train_cpu_seconds"]) for c in curves) / points
            lines.append(
                f"| {experiment} | {arm} | {points / len(curves):.1f} | {tokens:,.0f} | "
                f"{seconds:.2f} |"
            )
    return "\n".join(lines) + "\n"


def tests_table(rows: Sequence[Row], planned: Mapping[str, int]) -> str:
    """The planned tests, TSPO against GRPO by area: pairs finished of those planned, difference,
    interval, p, and p after Holm's correction over the tests.
    """
    differences = {name: area_pairs(rows, name, "tspo", "grpo") for name in planned}
    tests = {name: paired_difference(pairs) for name, pairs in differences.items() if pairs}
    corrected = holm({name: test.p for name, test in tests.items() if test.p is not None})
    lines = [
        "| test | pairs finished | planned | AUC diff. | larger in | p | p (Holm) |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, most in planned.items():
        test = tests.get(name)
        if test is None:
            lines.append(f"| {name}: tspo - grpo | 0 | {most} | | | | |")
            continue
        larger = sum(mine > theirs for mine, theirs in differences[name])
        lines.append(
            f"| {name}: tspo - grpo | {test.n} | {most} | {_points(test)} | {larger} | "
            f"{_p(test.p)} | {_p(corrected.get(name))} |"
        )
    return "\n".join(lines) + "\n"


def methods_table(rows: Sequence[Row], name: str, arms: Sequence[str]) -> str:
    """What each of `arms` gains over GRPO by area in the experiment `name`: pairs, difference,
    interval, p, p after Holm's correction over the arms that have one; the difference to TSPO with
    its interval; and the tokens and CPU seconds of its training for each of GRPO's.
    """
    pairs = {arm: pairs_between(rows, name, arm, "grpo") for arm in arms}
    tests = {arm: paired_difference(_areas(found)) for arm, found in pairs.items() if found}
    corrected = holm({arm: test.p for arm, test in tests.items() if test.p is not None})
    lines = [
        "| arm | pairs | AUC - GRPO's | p | p (Holm) | AUC - TSPO's | tokens | CPU s |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for arm, test in tests.items():
        beside = area_pairs(rows, name, arm, "tspo")
        tokens = _ratio([(mine.tokens, theirs.tokens) for mine, theirs in pairs[arm]])
        seconds = _ratio([(mine.cpu_seconds, theirs.cpu_seconds) for mine, theirs in pairs[arm]])
        lines.append(
            f"| {arm} | {test.n} | {_points(test)} | {_p(test.p)} | {_p(corrected.get(arm))} | "
            f"{_points(paired_difference(beside)) if beside else ''} | {tokens} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def replication_table(first: Sequence[Row], second: Sequence[Row], name: str, last: int) -> str:
    """How far the same run (arm, start, seed) moves between two sets of results: means over the
    runs that both have, and of the absolute movement.
    """
    old, new = pairs_of(first, name), pairs_of(second, name)
    both = [key for key in new if key in old]
    lines = [
        "| arm | runs in both | AUC 1st | AUC 2nd | moved by | EM 1st | EM 2nd | moved by |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for arm in dict.fromkeys(key[0] for key in both):
        runs = [(old[key], new[key]) for key in both if key[0] == arm]
        areas = [(100 * _area(a), 100 * _area(b)) for a, b in runs]
        ends = [(100 * (a.em_at(last) or 0), 100 * (b.em_at(last) or 0)) for a, b in runs]
        lines.append(f"| {arm} | {len(runs)} | {_moved(areas)} | {_moved(ends)} |")
    return "\n".join(lines) + "\n"


def findings(first: Sequence[Row], second: Sequence[Row], planned: Mapping[str, int]) -> str:
    """What the two sets say about each experiment, as the list that opens the page. `second` is the
    set with a plan of so many pairs.
    """
    titles = {
        "hard": "Hard start (first planned test)",
        "two_hop": "Two-hop questions (second planned test)",
        "easy": "Easy start (the negative control)",
    }
    lines = []
    for number, (name, title) in enumerate(titles.items(), start=1):
        old = paired_difference(area_pairs(first, name, "tspo", "grpo"))
        pairs = area_pairs(second, name, "tspo", "grpo")
        new = paired_difference(pairs) if pairs else None
        enough = new is not None and new.n >= FEWEST_PAIRS
        verdict = _verdict(new) if new and enough else f"{_verdict(old)} (first set)"
        of = f" of {planned[name]} planned" if name in planned else ""
        if new is not None and enough:
            here = f"{_points(new)} points of area over {new.n}{of} pairs"
        elif new is not None:
            here = f"pairs finished: {new.n}{of}, too few to compare"
        else:
            here = f"no pair{of} is finished"
        text = (
            f"{number}. **{title}: {verdict}.** TSPO minus GRPO: {here}. In the first set "
            f"{_points(old)} over {old.n} pairs."
        )
        lines.append(textwrap.fill(text, 100, subsequent_indent="   ", break_on_hyphens=False))
    return "\n".join(lines) + "\n"


def progress_table(rows: Sequence[Row], planned: Mapping[tuple[str, str], int]) -> str:
    """Finished and planned runs of every experiment and arm."""
    done = Counter({(row["experiment"], row["arm"], row["config"], row["seed"]) for row in rows})
    finished = Counter((experiment, arm) for experiment, arm, _, _ in done)
    lines = ["| experiment | arm | runs finished | planned |", "| :--- | :--- | ---: | ---: |"]
    for (experiment, arm), most in planned.items():
        lines.append(f"| {experiment} | {arm} | {finished[experiment, arm]} | {most} |")
    return "\n".join(lines) + "\n"


def area_pairs(rows: Sequence[Row], name: str, arm: str, other: str) -> list[tuple[float, float]]:
    """The areas of two arms of the experiment `name` in every finished pair."""
    return _areas(pairs_between(rows, name, arm, other))


def _areas(pairs: Sequence[tuple[SweepRun, SweepRun]]) -> list[tuple[float, float]]:
    return [(_area(mine), _area(theirs)) for mine, theirs in pairs]


def pairs_between(
    rows: Sequence[Row], name: str, arm: str, other: str
) -> list[tuple[SweepRun, SweepRun]]:
    """The runs of two arms of the experiment `name` that share start and seed."""
    runs = pairs_of(rows, name)
    return [
        (run, runs[other, *key[1:]])
        for key, run in runs.items()
        if key[0] == arm and (other, *key[1:]) in runs
    ]


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p-values after Holm's step-down correction over all of `values`."""
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(values, key=lambda name: values[name])):
        largest = max(largest, min(1.0, (len(values) - place) * values[name]))
        corrected[name] = largest
    return corrected


def pairs_of(rows: Iterable[Row], name: str) -> Pairs:
    """The runs of an experiment without a grid."""
    runs = sweep_of(rows, name, baseline=None, grid=False).runs
    return {(run.arm, run.place["start"], str(run.seed)): run for run in runs}


def _run(curve: Sequence[Row], grid: bool) -> SweepRun:
    first, last = curve[0], curve[-1]
    place = {"start": first["start"]} | ({"optimizer.lr": first["lr"]} if grid else {})
    view = SimpleNamespace(state="finished", name=first["config"], command="")
    seconds = first["train_cpu_seconds"]
    return SweepRun(
        view=cast(RunView, view),
        arm=first["arm"],
        place=place,
        seed=int(first["seed"]),
        dataset="heldout",
        curve=tuple((int(row["step"]), float(row["em"])) for row in curve),
        end={key: float(last[key]) for key in ("searches", "no_answer_share", "n")},
        tokens=float(first["train_tokens"]),
        cpu_seconds=float(seconds) if seconds else None,
    )


def _area(run: SweepRun) -> float:
    area = run.auc_until(run.curve[-1][0])
    assert area is not None
    return area


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else "\\<0.001"


def _verdict(test: Paired) -> str:
    if test.low is None or test.high is None or test.low <= 0 <= test.high:
        return "no difference is established"
    return "a gain" if test.low > 0 else "a loss"


def _points(test: Paired) -> str:
    interval = "" if test.low is None else f" \\[{100 * test.low:+.1f}, {100 * test.high:+.1f}\\]"  # type: ignore[operator]
    return f"{100 * test.mean:+.1f}{interval}"


def _ratio(values: Sequence[tuple[float | None, float | None]]) -> str:
    known = [(mine, theirs) for mine, theirs in values if mine is not None and theirs]
    if not known:
        return ""
    return f"{sum(mine for mine, _ in known) / sum(theirs for _, theirs in known):.2f}x"


def _moved(values: Sequence[tuple[float, float]]) -> str:
    first, second = (mean_interval(side).mean for side in zip(*values, strict=True))
    moved = [abs(a - b) for a, b in values]
    return f"{first:.1f} | {second:.1f} | {fmean(moved):.1f} (at most {max(moved):.1f})"
