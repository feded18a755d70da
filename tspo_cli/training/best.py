"""The best policy of a run so far, by its evaluations: RUN/best is a model directory with a
best.json, and with the adapters in adapter/ where the run trains some.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.record_digests import delete_folder, note_digests
from tspo_cli.rollout.agent_file import write_agent_file
from tspo_cli.runs import (
    ADAPTER_NAME,
    BEST_NAME,
    eval_folder,
    read_json,
    scores_files,
    write_json,
)
from tspo_cli.training.core.distributed import broadcast_json, rank
from tspo_cli.training.core.export import export_adapter, exported_model
from tspo_cli.training.core.training_core import TrainingCore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BEST = "best.json"


def keep_best(
    config: Config,
    run: Path,
    policy: TrainingCore,
    tokenizer: PreTrainedTokenizerFast,
    step: int,
    belongs: Mapping[str, str],
) -> float | None:
    """Export the policy to RUN/best if the evaluation of `step` is better than all before. Returns
    its score, None if it is no better.

    All processes call it. The score is the mean of config.checkpoint.best over the evaluated data
    sets; among equal scores the earlier step stays. An evaluation in which a search failed
    is never the best: its score is one of the outage too. `belongs` tells whose policy it is.
    """
    if config.checkpoint.best == "none" or not (config.eval.every and config.eval.data):
        return None
    score: float | None = broadcast_json(
        _better(config, run, step, belongs) if rank() == 0 else None
    )
    if score is None:
        return None
    folder = run / BEST_NAME
    with exported_model(policy, folder, tokenizer) as new:
        if config.lora.rank:
            export_adapter(policy, new / ADAPTER_NAME)
        if rank() == 0:
            write_agent_file(new, config)
            best = {"step": step, "metric": config.checkpoint.best, "value": score}
            write_json(new / BEST, {**best, **belongs})
            note_digests(new / BEST)
    return score


def forget_later(run: Path, step: int, belongs: Mapping[str, str]) -> None:
    """Delete a best policy that came after `step`: a resumed run exports it again.

    Raises:
        InvalidInputError: as `read_best`.
    """
    best = read_best(run, belongs)
    if (run / BEST_NAME).exists() and (best is None or best["step"] > step or step == 0):
        delete_folder(run / BEST_NAME)


def evaluated_score(config: Config, run: Path, step: int) -> float | None:
    """The score of the evaluation of `step`, see `keep_best`; None where it has none, or a search
    failed.
    """
    metric = config.checkpoint.best
    evaluated = [read_json(path) for path in scores_files(eval_folder(run, step))]
    if metric == "none" or not evaluated or any(scores.get("failed") for scores in evaluated):
        return None
    return float(sum(scores[metric] for scores in evaluated) / len(evaluated))


def _better(config: Config, run: Path, step: int, belongs: Mapping[str, str]) -> float | None:
    score, best = evaluated_score(config, run, step), read_best(run, belongs)
    return score if score is not None and (best is None or score > best["value"]) else None


def read_best(run: Path, belongs: Mapping[str, str]) -> dict[str, Any] | None:
    """What is recorded of the best policy, None without one. `belongs` tells whose it has to be.

    Raises:
        InvalidInputError: its best.json is damaged, or it is the best policy of another run.
    """
    path = run / BEST_NAME / BEST
    if not path.exists():
        return None
    best = read_json(path)
    if (
        not isinstance(best, dict)
        or type(best.get("step")) is not int
        or type(best.get("value")) not in (int, float)
    ):
        raise InvalidInputError(
            f"{path}: damaged (it names no step and value); delete {path.parent}, and the next "
            "evaluation makes it anew"
        )
    if any(best.get(name, own) != own for name, own in belongs.items()):
        raise InvalidInputError(
            f"{path}: is the best policy of another run; move {path.parent} elsewhere, and put "
            "back a copy of its own"
        )
    return best
