"""What may change when a run is resumed, what makes it another experiment, and the record of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tspo_cli.config.load_config import read_resolved, write_resolved
from tspo_cli.config.sections.prompt_value import prompt_name
from tspo_cli.config.tables import flatten
from tspo_cli.console import say
from tspo_cli.credit.algorithms import ALGORITHMS
from tspo_cli.digests import DIGITS, json_digest
from tspo_cli.errors import InvalidInputError
from tspo_cli.record_digests import changing, check_digest
from tspo_cli.record_forms import INPUTS, SCORES, checked
from tspo_cli.runs import (
    CHECKPOINTS_NAME,
    CONFIG_TEXT_NAME,
    EVALUATIONS_NAME,
    INPUTS_NAME,
    METRICS_NAME,
    append_jsonl,
    checkpoint_folders,
    checkpoint_step,
    eval_steps,
    log_line,
    read_json,
    scores_files,
    write_environment,
)
from tspo_cli.text.secrets import values_without_secrets

if TYPE_CHECKING:
    from pathlib import Path

    from tspo_cli.config.schema import Config

CHANGES_NAME = "changes.jsonl"
# Where, how long, how much at once, and what is kept: none of it is the experiment.
RESUMABLE = (
    *("prepare", "track.", "checkpoint.", "eval.", "vllm.", "deepspeed.", "launch."),
    *("train.steps", "train.epochs", "train.processes", "train.threads", "train.keep_rollouts"),
    *("train.export_model", "train.parity_limit", "train.stop_when", "train.packing"),
    *("train.share_prefixes", "train.on_warning", "collapse."),
    *("judge.url", "judge.key_env", "judge.concurrency", "judge.timeout", "judge.retries"),
    *("train.tokens_per_micro_batch", "train.gradient_checkpointing", "train.compile"),
    *("train.balance_ranks", "train.stall_limit", "train.drop_zero_advantage"),
    *("rollout.batch_size", "rollout.turn_deadline", "rollout.trajectory_deadline"),
    *("rollout.schedule", "lora.handover"),
    *("retriever.timeout", "retriever.retries", "retriever.deadline", "retriever.concurrency"),
    *("retriever.max_passage_chars", "retriever.token_file"),
    *("retriever.search.device", "retriever.search.batch_size", "retriever.search.batch_tokens"),
)
# Places of inputs whose contents RUN/inputs.json has: only the place may change.
PLACES = (
    *("model.path", "data.train", "data.demonstrations", "data.world"),
    *("retriever.index", "retriever.url", "retriever.qdrant.url"),
)

SEARCH_KIND = "search"
"""RUN/inputs.json has the search settings of the index or its server, too: they may move to a
server, which the experiment does not tell them.
"""

INPUT_NAMES = {
    "questions": "training questions (data.train)",
    "demonstrations": "demonstrations (data.demonstrations, data.world)",
    "held_out": "held-out demonstrations (data.held_out, data.held_out_share)",
    "index": "passages (retriever.index)",
    "model": "starting model (model.path)",
    SEARCH_KIND: "search settings (retriever.search, or those of the server)",
    "reranker": "reranker (retriever.search.reranker)",
    "algorithm": "code (credit.algorithm)",
    "outcome": "code (credit.outcome)",
    "rubric": "rubric (judge.prompt)",
}
"""What RUN/inputs.json has digests of, in words."""

RESULTS = (CHECKPOINTS_NAME, METRICS_NAME, EVALUATIONS_NAME)
"""What of a run follows from its inputs."""

EXPERIMENT = "experiment"
"""RUN/inputs.json has the digest of what a run began with, as `experiment_digest` gave it then, and
every checkpoint and evaluation has it too: it tells whose they are. It is never computed again, so
that other versions, which have other keys, may resume the run.
"""

LONGEST_SHOWN = 80
"""Characters of a value in a message."""

Change = tuple[Any, Any]
"""A setting before and now."""


def check_same_experiment(before: Config, now: Config, run: Path) -> dict[str, Change]:
    """The settings that differ, by key.

    Raises:
        InvalidInputError: one of them makes it another experiment.
    """
    old, new = flatten(before.section_dict()), flatten(now.section_dict())
    changes = {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    if refused := other_experiment(changes, now.credit.algorithm, run):
        shown = ", ".join(shown_change(key, changes[key]) for key in refused[:3])
        raise InvalidInputError(
            f"{run}: holds another experiment: {shown}; {its_settings(run)} or another --out"
        )
    return changes


def other_experiment(changes: Iterable[str], algorithm: str, run: Path) -> list[str]:
    """Those of the changed keys that make it another experiment than that of `run`."""
    harmless = (*RESUMABLE, *_places(run), *_unread(algorithm))
    return [key for key in changes if not key.startswith(harmless)]


def its_settings(run: Path) -> str:
    """What to do for the settings of a run. Nobody is sent to a file that somebody changed."""
    text = run / CONFIG_TEXT_NAME
    try:
        if text.is_file():
            check_digest(text)
    except InvalidInputError:
        return f"{text} was changed after it was written: put back its settings"
    return f"use its settings ({text})"


def experiment_digest(config: Config, inputs: dict[str, str]) -> str:
    """The digest of the settings that all attempts of a run share, and of its `inputs`."""
    others = (*RESUMABLE, *PLACES, "retriever.search.", *_unread(config.credit.algorithm))
    settings = flatten(config.section_dict())
    shared = {key: value for key, value in settings.items() if not key.startswith(others)}
    return json_digest({"settings": shared, "inputs": inputs})[:DIGITS]


def read_inputs(run: Path) -> dict[str, str]:
    """RUN/inputs.json: digests by kind of input; {} for a run of an earlier version, without any.

    Raises:
        InvalidInputError: the record is damaged.
    """
    path = run / INPUTS_NAME
    if not path.exists():
        return {}
    recorded: dict[str, str] = checked(INPUTS, read_json(path), str(path))
    return recorded


def recorded_experiment(run: Path) -> str | None:
    """What RUN/inputs.json has of `experiment_digest`; a run of an earlier version has none.

    Raises:
        InvalidInputError: the record is damaged.
    """
    return read_inputs(run).get(EXPERIMENT)


def foreign_evaluations(run: Path, end: int | None) -> dict[Path, str]:
    """What tells that the run did not make an evaluation, by its folder. `end` is its last step,
    None while it may go on.

    Raises:
        InvalidInputError: a record is damaged.
    """
    own = recorded_experiment(run)
    found: dict[Path, str] = {}
    for step, folder in eval_steps(run):
        if end is not None and step > end:
            found[folder] = f"it ended at step {end}, and has an evaluation of step {step}"
        for path in scores_files(folder):
            scores = checked(SCORES, read_json(path), str(path))
            of = (scores.get("digests") or {}).get(EXPERIMENT)
            if None not in (own, of) and own != of:
                found[folder] = f"the evaluation of step {step} is one of another run"
    return found


def _places(run: Path) -> Iterator[str]:
    """Settings of inputs whose contents are compared before anything is computed."""
    if not (run / INPUTS_NAME).exists():
        return
    yield from PLACES
    if SEARCH_KIND in read_inputs(run):
        yield "retriever.search."


def _unread(algorithm: str) -> Iterator[str]:
    """The tables of algorithms that the experiment does not use. An algorithm of the user's own
    may read all of them.
    """
    if algorithm in ALGORITHMS:
        own = ALGORITHMS[algorithm].table
        for other in ALGORITHMS.values():
            if other.options is not None and other.table != own:
                yield f"credit.{other.table}."


def adopt_settings(config: Config, run: Path, attempt: int) -> None:
    """Let a run that is resumed have these settings and this environment from now on, and record
    what has changed. Its inputs and checkpoints were examined before: an attempt that is refused
    changes nothing.

    Raises:
        InvalidInputError: the run holds another experiment.
    """
    changes = check_same_experiment(read_resolved(run), config, run)
    write_resolved(config, run)
    write_environment(run)
    record_changes(run, attempt, changes)


def record_changes(run: Path, attempt: int, changes: dict[str, Change]) -> None:
    """Say what is resumed with other settings, and add a line to RUN/changes.jsonl and the log."""
    if not changes:
        return
    message = "resumed with other settings: " + ", ".join(
        shown_change(key, change) for key, change in changes.items()
    )
    say(message)
    log_line(run, attempt, message)
    folders = checkpoint_folders(run)
    step = checkpoint_step(folders[-1]) if folders else 0
    record = {"attempt": attempt, "step": step, "changes": changes}
    with changing(run / CHANGES_NAME):
        append_jsonl(run / CHANGES_NAME, values_without_secrets(record))


def shown_change(key: str, change: Change) -> str:
    """A setting with both values, of long ones the beginning."""
    before, now = (
        prompt_name(value) if key == "rollout.prompt" else shown_value(value) for value in change
    )
    return f"{key} (was {before}, now {now})"


def shown_value(value: Any) -> str:
    """A value as JSON, of a long one the beginning."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
