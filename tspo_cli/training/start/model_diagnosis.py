"""Whether the model directories of a run can be opened, and what to do about one that cannot."""

from __future__ import annotations

import os
from pathlib import Path

from tspo_cli import runs
from tspo_cli.config.load_config import read_resolved
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.models.checks.loading_report import check_shards
from tspo_cli.plain_files import named_like, require_plain
from tspo_cli.training.launch.same_experiment import EXPERIMENT, recorded_experiment

_ANEW = "put back a copy, or start anew with --overwrite"


def final_model(run: Path, busy: bool) -> tuple[str, str]:
    """The state and detail of RUN/model."""
    model = run / runs.MODEL_NAME
    has_checkpoint = bool(runs.checkpoint_folders(run))
    exports = "--resume exports it from the last checkpoint"
    if model.is_dir():
        advice = f"delete {model}, and {exports}" if has_checkpoint else _ANEW
        return _opened(model, advice)
    if os.path.lexists(model):
        advice = f"delete it, and {exports}" if has_checkpoint else _ANEW
        return "problem", f"{model}: expected a directory; {advice}"
    try:
        finished = not busy and runs.read_status(run)["state"] == "finished"
        wanted = finished and read_resolved(run).train.export_model
    except TspoError:  # which other findings say
        wanted = False
    if not wanted:
        return "note", "not exported yet"
    if has_checkpoint:
        return "problem", f"missing; {exports}"
    return "problem", f"missing, and no checkpoint is there to export it from; {_ANEW}"


def best_model(run: Path) -> tuple[str, str]:
    """The state and detail of RUN/best, which is there.

    Raises:
        InvalidInputError: its record is damaged or of another run.
    """
    from tspo_cli.training.best import read_best

    own = recorded_experiment(run)
    read_best(run, {EXPERIMENT: own} if own is not None else {})
    return _opened(run / runs.BEST_NAME, "put back a copy, or delete it: reports do not need it")


def _opened(model: Path, advice: str) -> tuple[str, str]:
    try:
        _check_files(model)
    except (TspoError, OSError) as error:
        problem = str(error).split(";")[0]  # the advice is for a model that no run exported
        return "problem", f"{problem}; {advice}"
    return "ok", f"{model} can be opened (its weights have no digest)"


def _check_files(model: Path) -> None:
    """Open the configuration and the tokenizer, and read the headers of the weights.

    Raises:
        InvalidInputError, MissingResourceError: one cannot be read, or is not there.
    """
    from tspo_cli.models.load_model import load_tokenizer, model_config

    model_config(model)
    load_tokenizer(model)
    check_shards(model)
    weights = named_like(model, "*.safetensors")
    if not weights:
        raise MissingResourceError(f"{model}: without weights")
    for file in weights:
        _check_weights(file)


def _check_weights(file: Path) -> None:
    """Raises InvalidInputError for a file that is cut or no safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        require_plain(file)  # safetensors would wait for the writer of a pipe
        with safe_open(file, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(f"{file}: damaged ({error})") from None
