"""Whether the records of a run or an evaluation are whole, and as they were written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.console import counted
from tspo_cli.errors import MissingResourceError, TspoError
from tspo_cli.record_digests import check_complete, check_digest, digests_in
from tspo_cli.record_forms import SCORES, checked, checked_step
from tspo_cli.rollout.records import check_step, read_items
from tspo_cli.training.start.finding import Finding, advised


def check_run_records(run: Path) -> Iterator[Finding]:
    """Every damaged record by name, or how many are whole."""
    checks: list[tuple[Path, Callable[[Path], Any]]] = [
        (run / name, _check_steps) for name in (runs.METRICS_NAME, runs.TIMINGS_NAME)
    ]
    sampled = _sampled_tokens(run)
    checks += [
        (path, partial(check_step, step=step, sampled=sampled.get(step)))
        for step, path in runs.rollout_files(run)
    ]
    for _, folder in runs.eval_steps(run):
        checks += [(path, check_scores) for path in runs.scores_files(folder)]
        checks += [(path, check_items) for _, path in runs.items_files(folder)]
    yield from check_records(checks, "put back a copy, or delete it: only reports need it")


def _sampled_tokens(run: Path) -> dict[int, float | None]:
    """The tokens that each step sampled, as its metrics say."""
    path = run / runs.METRICS_NAME
    with suppress(TspoError, OSError):  # which the check of the metrics says
        rows = [checked_step(row, str(path)) for row in runs.read_jsonl(path)]
        return {row["step"]: row.get("sampled_tokens") for row in rows}
    return {}


def check_records(
    checks: Sequence[tuple[Path, Callable[[Path], Any]]], advice: str
) -> Iterator[Finding]:
    """Every record that its check refuses, and how many are whole."""
    whole = 0
    for path, check in checks:
        try:
            check(path)
            whole += 1
        except (TspoError, OSError) as error:
            yield Finding("record", "problem", advised(error, advice))
    yield Finding(
        "records", "ok", f"{counted(whole, 'file')} {'is' if whole == 1 else 'are'} whole"
    )


def check_run_digests(run: Path) -> Iterator[Finding]:
    """As `check_digests`, of the folders of a run."""
    records = {run: [], run / runs.ROLLOUTS_NAME: [path for _, path in runs.rollout_files(run)]}
    for _, folder in runs.eval_steps(run):
        items = [path for _, path in runs.items_files(folder)]
        records[folder] = [*runs.scores_files(folder), *items]
    yield from check_digests(records | {run / runs.BEST_NAME: []})


def check_digests(records: Mapping[Path, Sequence[Path]]) -> Iterator[Finding]:
    """Every record that was changed after it was written, how many were not, and where that cannot
    be known. `records`: of each folder the files that should have a digest.
    """
    covered, without = 0, list[str]()
    for folder in records:
        checks: list[tuple[Callable[[Path], None], Path]] = [(check_complete, folder)]
        with suppress(TspoError):  # which `check_complete` says
            names = set(digests_in(folder))
            checks += [(check_digest, folder / name) for name in sorted(names)]
            bare = [path.name for path in records[folder] if path.name not in names]
            if not names and folder.is_dir():
                without.append(f"{folder} has none")
            elif bare:
                without.append(f"{folder} has none for {len(bare)} of its files, {bare[0]} first")
        for check, path in checks:
            try:
                check(path)
                covered += path != folder
            except (FileNotFoundError, MissingResourceError):  # which `check_complete` says
                continue
            except (TspoError, OSError) as error:
                yield Finding("digests", "problem", advised(error, "put back a copy"))
    if covered:
        are = "record is as it was" if covered == 1 else "records are as they were"
        yield Finding("digests", "ok", f"{covered} {are} written")
    for where in without:
        detail = f"{where}, so a changed value there would not be noticed"
        yield Finding("digests", "note", detail)


def _check_steps(path: Path) -> None:
    for record in runs.read_jsonl(path):
        checked_step(record, str(path))


def check_scores(path: Path) -> None:
    """Raises InvalidInputError for a file that has not the scores of a data set."""
    checked(SCORES, runs.read_json(path), str(path))


def check_items(path: Path) -> None:
    """Raises InvalidInputError for a file that has not the evaluated items of a data set, or those
    of other scores than stand beside it.
    """
    beside = path.with_name(f"{path.name.removesuffix(runs.ITEMS_SUFFIX)}.json")
    scores = checked(SCORES, runs.read_json(beside), str(beside)) if beside.exists() else None
    deque(read_items(path, scores), maxlen=0)
