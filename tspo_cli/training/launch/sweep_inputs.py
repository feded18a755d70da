"""Cells of a sweep are what its file says, train on the same contents of the files that they name,
and answer the same questions, also where somebody edits a file while the sweep runs: else the
report would compare different experiments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.load_config import read_resolved
from tspo_cli.config.old_records import read_record
from tspo_cli.config.schema import Config
from tspo_cli.config.sweeps.sweep_file import SWEEP_NAME
from tspo_cli.config.sweeps.sweep_record import cell_file, read_sweep_record, written_settings
from tspo_cli.config.tables import flatten
from tspo_cli.disk import has_writer
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.record_forms import SCORES, checked
from tspo_cli.runs import (
    CONFIG_NAME,
    eval_steps,
    is_run,
    read_json,
    read_status,
    scores_files,
)
from tspo_cli.text.secrets import without_secrets
from tspo_cli.training.launch.same_experiment import (
    INPUT_NAMES,
    RESULTS,
    SEARCH_KIND,
    check_same_experiment,
    foreign_evaluations,
    its_settings,
    other_experiment,
    read_inputs,
    shown_change,
    shown_value,
)

QuestionDigests = Callable[[Config], Mapping[str, str]]
"""The digests of the questions that a training is evaluated on, by data set."""
_SETTINGS = {
    "questions": ("data.",),
    "demonstrations": ("data.",),
    "held_out": ("data.",),
    "index": ("retriever.",),
    SEARCH_KIND: ("retriever.",),
    "reranker": ("retriever.",),
    "model": ("model.path", "model.revision"),
    "algorithm": ("credit.algorithm",),
    "outcome": ("credit.outcome",),
    "rubric": ("judge.prompt",),
}
"""The settings that name an input, by kind."""
_NAMED_BY = {
    "questions": ("data",),
    "demonstrations": ("data",),
    "held_out": ("data",),
    "index": ("retriever.index", "retriever.url", "retriever.qdrant"),
    SEARCH_KIND: ("retriever",),
    "reranker": ("retriever",),
    "model": ("model.path", "model.revision"),
    "algorithm": ("credit.algorithm",),
    "outcome": ("credit.outcome",),
    "rubric": ("judge.prompt",),
}
"""The settings, or the first parts of their names, that name the files of each input."""

_SPLIT = frozenset({"demonstrations", "held_out"})
"""Inputs that data.held_out_share splits."""
_EVALUATIONS = ("limit", "every", "at_start", "temperature", "answer")
_EVALUATED_ALIKE = tuple(f"eval.{name}" for name in _EVALUATIONS)
"""Settings that decide about a curve: a run may go on with others, a cell may not."""
_ANEW = "move this folder elsewhere and train the cell again with the same `tspo sweep`"
_MOST_SHOWN = 3


def require_inputs_of_sweep(run: Path, config: Config) -> None:
    """Compare the recorded inputs of a run that is a cell of a sweep with those of the other cells
    that have begun.

    Raises:
        InvalidInputError: another cell names the same files and began with other contents.
    """
    own = recorded_inputs(run)
    for other in _other_cells(run):
        if not (has_begun(other) or has_writer(other)):
            continue
        theirs = recorded_inputs(other)
        if any(theirs.get(kind, digest) != digest for kind, digest in own.items()):
            _refuse(_different_inputs({other: _flat(read_resolved(other)), run: _flat(config)}))


def require_same_inputs(cells: Mapping[Path, Config]) -> None:
    """Compare the recorded inputs and evaluations of the cells of a sweep that have begun.

    Raises:
        InvalidInputError: two of them name the same files and began with other contents, or
            answered other questions.
    """
    begun = {run: _flat(config) for run, config in cells.items() if has_begun(run)}
    _refuse([*_different_inputs(begun), *_different_questions(begun)])


def check_cell(run: Path, config: Config) -> None:
    """Compare a run that has begun with the cell that it is of.

    Raises:
        InvalidInputError: it holds another experiment, or was evaluated with other settings.
    """
    before = read_resolved(run)
    check_same_experiment(before, config, run)
    old, new = _flat(before), _flat(config)
    changes = [shown_change(k, (old[k], new[k])) for k in _EVALUATED_ALIKE if old[k] != new[k]]
    if changes:
        raise InvalidInputError(
            f"{run}: was evaluated in another way: {', '.join(changes)}; {its_settings(run)} or "
            "another --out"
        )


def require_same_questions(cells: Mapping[Path, Config], questions: QuestionDigests) -> None:
    """Compare the questions that the cells of a sweep that have begun answered with what their
    files hold now: a cell that is trained next could not be compared with them.

    Raises:
        InvalidInputError: one answered others.
    """
    known: dict[str, Mapping[str, str]] = {}
    for run, config in cells.items():
        evaluations = eval_steps(run)
        for path in scores_files(evaluations[-1][1]) if evaluations else ():
            scores = checked(SCORES, read_json(path), str(path))
            key = json.dumps([config.eval.data, config.eval.limit])
            if key not in known:
                with suppress(TspoError):  # which the cell says that needs them
                    known[key] = questions(config)
            before = (scores.get("digests") or {}).get("data")
            now = known.setdefault(key, {}).get(scores["dataset"])
            if before and now and before != now:
                raise InvalidInputError(
                    f"{run}: was evaluated on other questions of {scores['dataset']} (eval.data): "
                    f"their digest was {before}, now {now}; put back what it was evaluated on, or "
                    "choose another --out"
                )


def sweep_problems(folder: Path) -> Iterator[str]:
    """Why the cells of the sweep in `folder` that have begun cannot be compared, one line each.

    Raises:
        InvalidInputError: a record of the sweep or of a cell is damaged.
    """
    cells, begun = list[dict[str, Any]](), dict[Path, dict[str, Any]]()
    for cell in read_sweep_record(folder)["cells"]:
        run = folder / cell["name"]
        if is_run(run) and has_begun(run):
            cells.append(cell)
            begun[run] = flatten(read_record(run / CONFIG_NAME))
    first: dict[str, Path] = {}
    for cell in cells:
        run = folder / cell["name"]
        like = first.setdefault(cell["name"].rpartition("/")[0], run)
        written = written_settings(folder, cell["name"])
        planned = begun[like] if written is None else flatten(written)
        where = like if written is None else cell_file(folder, cell["name"])
        yield from _other_cell(run, begun[run], planned | {"seed": cell["seed"]}, where)
    yield from _different_inputs(begun)
    yield from _different_questions(begun)
    for run in begun:
        status = read_status(run)
        end = status["step"] if status["state"] == "finished" else None
        for problem in foreign_evaluations(run, end).values():
            yield f"{run}: {problem}; put back a copy of its own, or {_ANEW}"


def require_one_sweep(folder: Path) -> None:
    """Raises InvalidInputError with the first of `sweep_problems`."""
    _refuse(sweep_problems(folder))


def _other_cell(
    run: Path, own: Mapping[str, Any], planned: Mapping[str, Any], where: Path
) -> Iterator[str]:
    """What of the settings of a cell is not as planned. Keys that only one of both has are of
    another version.
    """
    known = [key for key in sorted(own.keys() & planned.keys()) if own[key] != planned[key]]
    others = other_experiment(known, str(own.get("credit.algorithm")), run)
    evaluated = [key for key in known if key in _EVALUATED_ALIKE]
    for what, keys in (
        ("holds another experiment", others),
        ("was evaluated otherwise", evaluated),
    ):
        if keys:
            shown = ", ".join(
                f"{key} ({shown_value(own[key])}, there {shown_value(planned[key])})"
                for key in keys[:_MOST_SHOWN]
            )
            yield f"{run}: {what} than {where} says: {without_secrets(shown)}; {_ANEW}"


def _refuse(problems: Iterable[str]) -> None:
    for problem in problems:
        raise InvalidInputError(problem)


def _flat(config: Config) -> dict[str, Any]:
    return flatten(config.section_dict())


@dataclass(frozen=True, slots=True)
class OtherInput:
    """A run that names the same files as one before it and began with other contents."""

    run: Path
    other: Path
    kind: str
    digest: str
    before: str


def other_inputs(runs: Mapping[Path, Mapping[str, Any]]) -> Iterator[OtherInput]:
    """Those of `runs`, which have their flat settings, that name the same files as one before, and
    began with other contents.
    """
    first: dict[str, tuple[str, Path]] = {}
    for run, settings in runs.items():
        by_seed = {"seed": settings.get("seed")} if _draws_by_seed(settings) else {}
        for kind, digest in recorded_inputs(run).items():
            named = {key: at for key, at in settings.items() if key.startswith(_SETTINGS[kind])}
            named |= by_seed if kind in _SPLIT else {}
            key = json.dumps([kind, named], sort_keys=True, default=str)
            before, other = first.setdefault(key, (digest, run))
            if before != digest:
                yield OtherInput(run, other, kind, digest, before)


def inputs_of_arm(run: Path, settings: Mapping[str, Any], ignore: Sequence[str]) -> dict[str, str]:
    """The recorded inputs that all seeds of an experiment begin with, without those that a setting
    of `ignore` names.
    """
    seeds_differ = _SPLIT if _draws_by_seed(settings) else frozenset[str]()
    return {
        kind: digest
        for kind, digest in recorded_inputs(run).items()
        if kind not in seeds_differ
        and not any(_is_part(key, name) for key in _NAMED_BY[kind] for name in ignore)
    }


def _is_part(one: str, other: str) -> bool:
    """True if one of two dotted keys is the other, or a part of it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _draws_by_seed(settings: Mapping[str, Any]) -> bool:
    """Whether the seed decides which demonstrations are trained on."""
    return bool(settings.get("data.held_out_share"))


def _different_inputs(runs: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    for found in other_inputs(runs):
        yield (
            f"{found.run}: began with other {INPUT_NAMES[found.kind]} than {found.other}, a cell "
            f"of the same sweep: {found.digest}, there {found.before}; put back what that began "
            "with and delete the folder of this cell, or choose another --out"
        )


def _different_questions(runs: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    """The runs that are evaluated on the same files as one before, and answered other questions. An
    earlier version recorded only their number.
    """
    first: dict[str, tuple[int, str, Path, int]] = {}
    for run, settings in runs.items():
        files = [settings.get("eval.data"), settings.get("eval.limit")]
        for step, folder in eval_steps(run):
            for path in scores_files(folder):
                scores = checked(SCORES, read_json(path), str(path))
                count, digest = scores["n"], (scores.get("digests") or {}).get("data") or ""
                key = json.dumps([scores["dataset"], *files], sort_keys=True)
                known, before, other, at = first.setdefault(key, (count, digest, run, step))
                if digest and not before and count == known:
                    first[key] = (count, digest, run, step)
                elif count != known or (digest and digest != before):
                    told = f"{count} questions {digest}".strip()
                    there = f"{known} questions {before}".strip()
                    yield (
                        f"{run}: was evaluated at step {step} on other questions of "
                        f"{scores['dataset']} ({told}) than {other} at step {at} ({there}); put "
                        f"back the questions of that, {_ANEW}"
                    )
                    break


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


def has_begun(run: Path) -> bool:
    """True if the run has a result of its inputs."""
    return any((run / name).exists() for name in RESULTS)


def recorded_inputs(run: Path) -> dict[str, str]:
    """What RUN/inputs.json has of inputs that a setting names; {} where it is missing."""
    return {kind: found for kind, found in read_inputs(run).items() if kind in _SETTINGS}
