"""What a run trained on, so that it is resumed with the same: RUN/inputs.json has digests of the
training questions or demonstrations, the passages, the model that it started from, the user's own
code and rubric, and of the experiment with all of these.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.console import warn
from tspo_cli.credit.user_code import code_digest, is_user_code
from tspo_cli.data.question import data_digest
from tspo_cli.data.world.generate import world_file
from tspo_cli.digests import DIGITS, file_digest, text_digest
from tspo_cli.errors import InvalidInputError, advising
from tspo_cli.models.checks.model_digest import model_digest
from tspo_cli.record_digests import changing
from tspo_cli.retrieval.types import RetrieverInfo
from tspo_cli.runs import INPUTS_NAME, write_json
from tspo_cli.training.core.sequences import ScriptedTrajectory
from tspo_cli.training.launch.same_experiment import (
    EXPERIMENT,
    INPUT_NAMES,
    RESULTS,
    SEARCH_KIND,
    experiment_digest,
    read_inputs,
)
from tspo_cli.training.start.inputs import TrainingInputs


def input_digests(config: Config, inputs: TrainingInputs) -> dict[str, str]:
    """Digests by kind of input, the search settings as JSON, and `experiment_digest`. A server that
    does not tell the digest of its index has none.
    """
    digests = _digests(config, inputs)
    return digests | {EXPERIMENT: experiment_digest(config, digests)}


def inputs_of_process(config: Config, inputs: TrainingInputs) -> dict[str, str]:
    """Digests of what every process of a training reads for itself, by name: each node may have
    files of its own. The model is that of the first process, which sends it to the others.
    """
    return {INPUT_NAMES[kind]: value for kind, value in _data_digests(config, inputs).items()}


def _digests(config: Config, inputs: TrainingInputs) -> dict[str, str]:
    model = model_digest(config.model.path, config.model.revision)
    return {"model": model, **_data_digests(config, inputs)}


def _data_digests(config: Config, inputs: TrainingInputs) -> dict[str, str]:
    digests = {}
    if config.kind != "sft":
        digests["questions"] = data_digest(inputs.questions)
    elif config.data.world:
        world = world_file(Path(config.data.world))
        digests["demonstrations"] = file_digest(world)[:DIGITS]
    else:
        digests["demonstrations"] = _demonstrations_digest(inputs.demonstrations)
    if inputs.held_out:
        digests["held_out"] = _demonstrations_digest(inputs.held_out)
    digests |= {name: digest[:DIGITS] for name, digest in _own_files(config)}
    info = inputs.retriever.describe() if inputs.retriever is not None else RetrieverInfo()
    if not info.index_digest:
        return digests
    search = json.dumps(dict(info.search), sort_keys=True)
    reranker = {"reranker": info.reranker_digest[:DIGITS]} if info.reranker_digest else {}
    return {**digests, "index": info.index_digest[:DIGITS], SEARCH_KIND: search, **reranker}


def _own_files(config: Config) -> Iterator[tuple[str, str]]:
    """Digests of the user's own code and rubric, which decide about advantages, each with its kind
    of input.
    """
    if config.kind == "sft":
        return
    for name, spec in (("algorithm", config.credit.algorithm), ("outcome", config.credit.outcome)):
        if is_user_code(spec):
            yield name, code_digest(spec, f"credit.{name}")
    if config.credit.outcome == "judge" and config.judge.prompt:
        yield "rubric", file_digest(Path(config.judge.prompt))


def _demonstrations_digest(demonstrations: Iterable[ScriptedTrajectory]) -> str:
    return text_digest(json.dumps(_plain(demonstration)) for demonstration in demonstrations)


def _plain(demonstration: ScriptedTrajectory) -> dict[str, Any]:
    """The demonstration without what its turns do not use: earlier versions knew nothing of it."""
    record = dataclasses.asdict(demonstration)
    unused = {"shown": None, "is_invalid": False}
    record["turns"] = [
        {name: value for name, value in turn.items() if name not in unused or value != unused[name]}
        for turn in record["turns"]
    ]
    return record


def keep_or_compare_inputs(
    run: Path,
    digests: dict[str, str],
    *,
    resume: bool,
    former_model: Callable[[], str] | None = None,
) -> None:
    """Write RUN/inputs.json, or with `resume` compare it with `digests`. A run of an earlier
    version has none: it is written then. So it is where an attempt ended before it had a result,
    such as one without a model at its place. `former_model`: the model's digest as earlier versions
    recorded it, which is as good. Passages of which one digest is unknown are said to be so.

    Raises:
        InvalidInputError: the run began with other inputs.
    """
    path = run / INPUTS_NAME
    has_results = any((run / name).exists() for name in RESULTS)
    recorded = digests
    if resume and has_results and path.exists():
        with advising("delete it and resume"):
            recorded = read_inputs(run)
    for kind, digest in digests.items():
        before = recorded.get(kind, digest)
        if before == digest or kind == EXPERIMENT:  # its settings were compared one by one
            continue
        is_former = kind == "model" and former_model is not None and before == former_model()
        if not is_former:
            what = "they were" if kind == SEARCH_KIND else "their digest was"
            raise InvalidInputError(
                f"{run}: it began with other {INPUT_NAMES[kind]}: {what} {before}, now {digest}; "
                "put back what it began with, or choose another --out"
            )
    if ("index" in recorded) != ("index" in digests):
        warn(
            f"{run}: its passages cannot be compared with those that it began with: only "
            f"{'those' if 'index' in recorded else 'these'} have a digest"
        )
    if not path.exists() or recorded is digests:
        # Nobody knows what the checkpoints of a run without a record began with.
        unknown = {EXPERIMENT} if resume and has_results else set()
        with changing(path):
            write_json(path, {k: digest for k, digest in digests.items() if k not in unknown})
