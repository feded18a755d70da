"""The run directory: its file names, and writing them so that a crash never leaves half a file.

RUN/config.toml            resolved configuration (config.resolved.json: the same as JSON)
RUN/env.json               versions, git commit, hardware
RUN/inputs.json            digests of questions, passages, model, experiment; search settings
RUN/command.txt            the command, one line per attempt
RUN/status.json            {"state": running | finished | failed | stopped, "step", "attempt",
                           "warnings"}, and "stopped_early": the rule that ended it before its steps
RUN/metrics.jsonl          one line per step, without clock readings: equal runs have equal files
RUN/questions.jsonl        the questions of each step, where earlier steps decide on them
RUN/judge/replies_0.jsonl  replies of a judge whose verdict is trained, by process
RUN/timings.jsonl          seconds per step and part
RUN/rollouts/step_000010.jsonl.gz       one line per group
RUN/checkpoints/step_000010/            to resume from
RUN/eval/step_000010/<dataset>.json     scores; <dataset>.items.jsonl.gz has every item
RUN/best_checkpoints/step_000010/       what train.on_warning = reset_to_best goes back to
RUN/model/                 the exported model directory
RUN/logs/attempt_1.log     messages of each attempt
FOLDER/digests.jsonl       digests of the records in RUN, rollouts/, best/ and each eval/ folder

A folder of `tspo eval` holds <dataset>.json and <dataset>.items.jsonl.gz too, timings.json, and
digests.jsonl, and eval.json, which is written last.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shlex
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tspo_cli.console import patiently
from tspo_cli.disk import (
    WriteError,
    atomic_write_bytes,
    atomic_write_text,
    has_writer,
    writing,
)
from tspo_cli.environment import environment
from tspo_cli.errors import InvalidInputError, MissingResourceError, advising
from tspo_cli.plain_files import (
    append_plain,
    named_like,
    open_plain,
    refuse_too_large,
    require_folder,
    why_missing,
)
from tspo_cli.record_digests import (
    ONE_THREAD,
    changing,
    check_digest,
    forget_digests,
    note_digests,
    read_checked,
)
from tspo_cli.text.printable import one_line, printable
from tspo_cli.text.secrets import without_secrets
from tspo_cli.text.strict_json import json_text, parse_json, parse_lines

CONFIG_TEXT_NAME = "config.toml"
CONFIG_NAME = "config.resolved.json"
ENVIRONMENT_NAME = "env.json"
COMMAND_NAME = "command.txt"
STATUS_NAME = "status.json"
INPUTS_NAME = "inputs.json"
METRICS_NAME = "metrics.jsonl"
TIMINGS_NAME = "timings.jsonl"
QUESTIONS_NAME = "questions.jsonl"
LINES_NAMES = (METRICS_NAME, TIMINGS_NAME, QUESTIONS_NAME)
"""Files with a line for each step; a run may be without the last one."""
ROLLOUTS_NAME = "rollouts"
MODEL_NAME = "model"
ADAPTER_NAME = "adapter"
"""The adapters of a run, and in `BEST_NAME` those of its best policy."""
CHECKPOINTS_NAME = "checkpoints"
BEST_CHECKPOINTS_NAME = "best_checkpoints"
EVAL_SUMMARY_NAME = "eval.json"
EVAL_TIMINGS_NAME = "timings.json"

BEST_NAME = "best"
EVALUATIONS_NAME = "eval"
LOGS_NAME = "logs"
JUDGE_NAME = "judge"
TRACE_NAME = "trace"
HANDOVER_NAME = "handover"
REPLACED_NAME = ".replaced"
"""The run that `--overwrite` is to replace, while its successor has no checkpoint."""

LONGEST_LINE = 2**28
"""Bytes of one record, unpacked. A few kilobytes of gzip can hold terabytes."""
_ROLLOUTS_SUFFIX = ".jsonl.gz"
ITEMS_SUFFIX = ".items.jsonl.gz"
_OURS = r"eval|timings|config\.resolved|sweep|demo|.*\.judge"
_RESERVED = re.compile(rf"(?:{_OURS})_*", re.IGNORECASE)
_LONGEST_NAME = 200
"""Bytes of a data set's part of a file name; file systems take 255 with the endings."""


def step_name(step: int) -> str:
    """`step_000120`: sorts by step."""
    return f"step_{step:06d}"


_STEP = re.compile(r"step_([0-9]{6,18})")


def _by_step(folder: Path, suffix: str = "") -> list[tuple[int, Path]]:
    """The paths in a folder named `step_000120<suffix>` as (step, path), by step. Others are left
    out. InvalidInputError: the folder is something else. OSError: it cannot be read.
    """
    require_folder(folder)
    paths = (
        [path for path in folder.iterdir() if path.name.endswith(suffix)] if folder.exists() else []
    )
    found = [(_STEP.fullmatch(path.name.removesuffix(suffix)), path) for path in paths]
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def rollout_file(run: Path, step: int) -> Path:
    """The recorded groups of a training step, one line per group."""
    return run / ROLLOUTS_NAME / f"{step_name(step)}{_ROLLOUTS_SUFFIX}"


def rollout_files(run: Path) -> list[tuple[int, Path]]:
    """The recorded training steps of a run as (step, file), by step."""
    return _by_step(run / ROLLOUTS_NAME, _ROLLOUTS_SUFFIX)


def checkpoint_folder(run: Path, step: int) -> Path:
    """The checkpoint of a training step."""
    return run / CHECKPOINTS_NAME / step_name(step)


def checkpoint_folders(run: Path) -> list[Path]:
    """The checkpoints of a run, by step."""
    return [folder for _, folder in _by_step(run / CHECKPOINTS_NAME)]


def best_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run's best evaluations as (step, folder), by step."""
    return _by_step(run / BEST_CHECKPOINTS_NAME)


def checkpoint_step(folder: Path) -> int | None:
    """The training step of a checkpoint's folder, None where its name has none."""
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match is not None else None


def eval_folder(run: Path, step: int) -> Path:
    """The evaluation of a training step."""
    return run / EVALUATIONS_NAME / step_name(step)


def eval_steps(run: Path) -> list[tuple[int, Path]]:
    """The evaluations of a run as (step, folder), by step."""
    found = _by_step(run / EVALUATIONS_NAME)
    for _, folder in found:
        require_folder(folder)
    return found


def dataset_file_name(dataset: str) -> str:
    """The part of a file name that stands for a data set.

    No data set has the name of a file of ours: `eval`, `timings`, those that make a folder a run,
    sweep or demo, and names that end in `.judge`, get an underscore. No name leaves its folder or
    is too long for it: what no file name can have becomes an underscore, and a digest stands for
    the end of a long name.
    """
    name = one_line(dataset).replace(os.sep, "_")
    if _RESERVED.fullmatch(name):
        name += "_"
    if len(name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(dataset.encode(errors="replace")).hexdigest()[:12]
        name = name.encode()[: _LONGEST_NAME - 13].decode(errors="ignore") + f"-{digest}"
    return name


def scores_file(folder: Path, dataset: str) -> Path:
    """The scores of a data set in the folder of an evaluation."""
    return folder / f"{dataset_file_name(dataset)}.json"


def scores_files(folder: Path) -> list[Path]:
    """All scores of one evaluation of a run (`eval_folder`), by data set."""
    return named_like(folder, "*.json")


def items_file(folder: Path, dataset: str) -> Path:
    """The evaluated items of a data set in the folder of an evaluation, one line per question."""
    path = folder / f"{dataset_file_name(dataset)}{ITEMS_SUFFIX}"
    if _RESERVED.fullmatch(dataset):  # an earlier version did not change its name
        old = folder / f"{dataset.replace(os.sep, '_')}{ITEMS_SUFFIX}"
        return old if old.exists() and not path.exists() else path
    return path


def items_files(folder: Path) -> list[tuple[str, Path]]:
    """The items of every data set in the folder of an evaluation as (data set, file).

    The data set is as `dataset_file_name` gives it.
    """
    paths = named_like(folder, f"*{ITEMS_SUFFIX}")
    return [(path.name.removesuffix(ITEMS_SUFFIX), path) for path in paths]


def log_file(run: Path, attempt: int) -> Path:
    """The messages of an attempt."""
    return run / LOGS_NAME / f"attempt_{attempt}.log"


def write_json(path: Path, value: Any, mode: int = 0o666) -> None:
    """Write JSON atomically, readable and with a stable key order as given."""
    atomic_write_text(path, json_text(value, indent=2) + "\n", mode)


def read_json(path: Path) -> Any:
    """Read a JSON file; one that is malformed, or was changed after it was written
    (`record_digests`), is an InvalidInputError that names it.
    """
    try:
        return parse_json(read_checked(path), str(path))
    except FileNotFoundError:
        raise MissingResourceError(f"{path}: {why_missing(path)}") from None


def write_jsonl_gz(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write gzip JSONL atomically. No clock in the header: equal records give equal bytes."""
    lines = "".join(json_text(record) + "\n" for record in records)
    atomic_write_bytes(path, gzip.compress(lines.encode("utf-8"), compresslevel=5, mtime=0))


def read_jsonl_gz(path: Path) -> Iterator[Any]:
    """Read what `write_jsonl_gz` wrote. MissingResourceError: it is gone. InvalidInputError: it was
    changed since, is no gzip, cut, or above `LARGEST`, or a line is no JSON or too long.
    """
    try:
        with open_plain(path) as packed, gzip.open(packed, "rb") as handle:
            refuse_too_large(path, packed.fileno())
            check_digest(path)
            if not packed.peek(1):  # which gzip takes for no lines
                raise EOFError("it is empty")
            lines = iter(lambda: handle.readline(LONGEST_LINE + 1), b"")
            for number, line in enumerate(patiently(lines, f"reading {path}"), start=1):
                if len(line) > LONGEST_LINE:
                    raise InvalidInputError(f"{path}:{number}: longer than {LONGEST_LINE} bytes")
                yield parse_json(line, f"{path}:{number}")
    except FileNotFoundError:
        raise MissingResourceError(f"{path}: {why_missing(path)}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidInputError(f"{path}: damaged or not gzip JSON lines ({error})") from None


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one line and hand it to the operating system at once."""
    _append_line(path, json_text(record))


def _append_line(path: Path, line: str) -> None:
    with writing(path), append_plain(path) as handle:
        handle.write(f"{line}\n".encode())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a JSONL file; a torn last line (killed while writing) is left out.

    Raises:
        InvalidInputError: a line is no JSON object, or the file was changed after it was written;
            the message names the file and the line.
    """
    try:
        *lines, _ = read_checked(path).split(b"\n")
    except FileNotFoundError:
        return []
    return parse_lines(lines, path)


def keep_steps_up_to(path: Path, step: int) -> None:
    """Drop the lines after `step`, so that a resumed run writes them again.

    Raises:
        InvalidInputError: the file does not have one line for each of the steps 1 to `step`.
    """
    records = read_jsonl(path)
    kept = [record for record in records if _step_of(record) <= step]
    if [_step_of(record) for record in kept] != list(range(1, step + 1)):
        raise InvalidInputError(
            f"{path}: expected one line for each of the steps 1 to {step}; put back a whole copy, "
            "or start anew with --overwrite"
        )
    if path.exists():
        with changing(path, grows=True):
            atomic_write_text(path, "".join(json_text(record) + "\n" for record in kept))


def _step_of(record: Any) -> int:
    step = record.get("step") if isinstance(record, dict) else None
    return step if type(step) is int else -1


def command_line(arguments: Sequence[str]) -> str:
    """A command of ours as records keep it: one line, without the secrets of its URLs."""
    return one_line(without_secrets(shlex.join(["tspo", *arguments])))


def start_attempt(path: Path) -> int:
    """Record the command of this attempt; returns its number, from 1."""
    commands = path / COMMAND_NAME
    attempt = read_checked(commands).count(b"\n") + 1 if commands.exists() else 1
    with changing(commands):
        _append_line(commands, command_line(sys.argv[1:]))
    log_file(path, attempt).parent.mkdir(exist_ok=True)
    return attempt


def write_environment(path: Path) -> None:
    """Record versions, commit and hardware, on which the results of a run depend."""
    versions = path / ENVIRONMENT_NAME
    with changing(versions):
        write_json(versions, environment())


def log_line(path: Path, attempt: int, message: str) -> None:
    """Add one line to the attempt's log."""
    _append_line(log_file(path, attempt), printable(without_secrets(message)))


def set_status(
    path: Path,
    state: str,
    step: int,
    attempt: int,
    warnings: Sequence[str] = (),
    stopped_early: str | None = None,
) -> None:
    """Say where the run stands, what it was warned of, and which rule stopped it early. On a full
    disk the file is written in place.
    """
    record = {"state": state, "step": step, "attempt": attempt, "warnings": [*warnings]}
    early = {"stopped_early": stopped_early} if stopped_early is not None else {}
    payload = (json_text(record | early, indent=2) + "\n").encode("utf-8")
    status = path / STATUS_NAME
    with ONE_THREAD:
        forget_digests(status)
        try:
            atomic_write_bytes(status, payload)
        except WriteError:
            if not status.exists() or status.is_symlink():
                raise
            # How a run ended is worth more than an atomic write: the file's own block is enough.
            with writing(status, len(payload)), open(status, "r+b") as handle:
                handle.write(payload)
                handle.truncate()


def seal_run(path: Path) -> None:
    """Note the digests of a run that has ended: its lines do not grow any more."""
    with suppress(WriteError):  # of a full disk: how the run ended is written
        note_digests(path / STATUS_NAME, *(path / name for name in LINES_NAMES))


def read_status(path: Path) -> dict[str, Any]:
    """What `set_status` wrote; a run that has not begun is `not started` at step 0, and one whose
    process ended without saying so is `killed`.

    Raises:
        InvalidInputError: it is no such record.
    """
    record = _recorded_status(path)
    if record["state"] == "running" and has_writer(path) is False:
        record = _recorded_status(path)  # it may have ended between the two
        if record["state"] == "running":
            record["state"] = "killed"
    return record


def _recorded_status(path: Path) -> dict[str, Any]:
    status = path / STATUS_NAME
    if not status.exists():
        return {"state": "not started", "step": 0, "attempt": 0, "warnings": []}
    from tspo_cli.record_forms import STATUS, checked

    with advising("put back a copy, or delete it: --resume writes it anew"):
        record: dict[str, Any] = checked(STATUS, read_json(status), str(status))
    return record


def is_run(path: Path) -> bool:
    """True for a directory that a training run made."""
    return (path / CONFIG_NAME).exists()
