"""Cells of a sweep that name the same files train on the same contents of them, also where somebody
edits a file while the sweep runs: else the report would compare different experiments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tspo_cli.config.load_config import read_resolved
from tspo_cli.config.schema import Config
from tspo_cli.config.sweeps.sweep_file import SWEEP_NAME
from tspo_cli.config.sweeps.sweep_record import read_sweep_record
from tspo_cli.config.tables import flatten
from tspo_cli.disk import has_writer
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import INPUTS_NAME, read_json
from tspo_cli.training.launch.same_experiment import INPUT_NAMES, RESULTS, SEARCH_KIND

_SETTINGS = {
    "questions": ("data.",),
    "demonstrations": ("data.",),
    "index": ("retriever.",),
    SEARCH_KIND: ("retriever.",),
    "model": ("model.path", "model.revision"),
    "algorithm": ("credit.algorithm",),
    "outcome": ("credit.outcome",),
    "rubric": ("judge.prompt",),
}
"""The settings that name an input, by kind."""


def require_inputs_of_sweep(run: Path, config: Config) -> None:
    """Compare the recorded inputs of a run that is a cell of a sweep with those of the other cells
    that have begun.

    Raises:
        InvalidInputError: another cell names the same files and began with other contents.
    """
    own = _recorded(run)
    for other in _other_cells(run):
        if not (_has_begun(other) or has_writer(other)):
            continue
        theirs = _recorded(other)
        if any(theirs.get(kind, digest) != digest for kind, digest in own.items()):
            _compare({other: read_resolved(other), run: config})


def require_same_inputs(cells: Mapping[Path, Config]) -> None:
    """Compare the recorded inputs of the cells of a sweep that have begun.

    Raises:
        InvalidInputError: two of them name the same files and began with other contents.
    """
    _compare({run: config for run, config in cells.items() if _has_begun(run)})


def _compare(runs: Mapping[Path, Config]) -> None:
    first: dict[str, tuple[str, Path]] = {}
    for run, config in runs.items():
        settings = flatten(config.section_dict())
        by_seed = {"seed": config.seed} if config.data.held_out_share else {}
        for kind, digest in _recorded(run).items():
            named = {key: at for key, at in settings.items() if key.startswith(_SETTINGS[kind])}
            named |= by_seed if kind == "demonstrations" else {}
            key = json.dumps([kind, named], sort_keys=True)
            before, other = first.setdefault(key, (digest, run))
            if before != digest:
                raise InvalidInputError(
                    f"{run}: began with other {INPUT_NAMES[kind]} than {other}, a cell of the same "
                    f"sweep: {digest}, there {before}; put back what that began with and delete "
                    "the folder of this cell, or choose another --out"
                )


def _other_cells(run: Path) -> Iterator[Path]:
    """The other cells of the sweep that `run` is a cell of, if it is one."""
    place = run.resolve()
    for folder in place.parents:
        if not (folder / SWEEP_NAME).is_file():
            continue
        cells = [folder / cell["name"] for cell in read_sweep_record(folder)["cells"]]
        if place in cells:
            yield from (cell for cell in cells if cell != place)
            return


def _has_begun(run: Path) -> bool:
    return any((run / name).exists() for name in RESULTS)


def _recorded(run: Path) -> dict[str, str]:
    """RUN/inputs.json; {} where it is missing or none."""
    path = run / INPUTS_NAME
    found = read_json(path) if path.exists() else None
    return {k: v for k, v in found.items() if k in _SETTINGS} if isinstance(found, dict) else {}
