"""The trajectories of a run in one shape, whether they were training rollouts or evaluated
items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tspo_cli import runs
from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import CreditTrajectory, CreditTurn
from tspo_cli.errors import InvalidInputError
from tspo_cli.record_digests import check_complete
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.rollout.records import read_items, read_step


@dataclass(frozen=True, slots=True)
class Source:
    """Where trajectories lie: the rollouts of a step (`dataset` None), or the evaluation of a data
    set at a step.
    """

    step: int
    dataset: str | None
    path: Path
    in_training: bool = True

    @property
    def label(self) -> str:
        """For people: what and when."""
        if self.dataset is None:
            return f"rollouts of step {self.step}"
        return f"{self.dataset} at step {self.step}" if self.in_training else self.dataset


def sources(view: RunView) -> list[Source]:
    """All kept rollouts, then all evaluated items, each by step."""
    check_complete(view.path / runs.ROLLOUTS_NAME)
    rollouts = [Source(step, None, path) for step, path in runs.rollout_files(view.path)]
    items = [
        Source(step, dataset, path, not view.is_evaluation)
        for step, folder in view.evaluation_folders
        for dataset, path in runs.items_files(folder)
    ]
    return rollouts + items


def question_key(item: dict[str, Any]) -> str:
    """What an evaluated item has in common with others of the same question in a data set of that
    name. Ids alone say little: the questions of files without any are numbered, and a data set of
    several sources may have an id twice.
    """
    return json.dumps([str(item["id"]), item["question"]])


def read_groups(view: RunView, source: Source) -> Iterator[dict[str, Any]]:
    """The groups of a source as rollouts are recorded: question, golden_answers, group,
    group_class, trajectories.

    An evaluated item is a group of one, judged by the run's own credit options; it has no turn
    rewards or advantages.
    """
    if source.dataset is None:
        for group in read_step(source.path, source.step):
            record: dict[str, Any] = {**group}
            failed = record.pop("failed", [])
            yield (
                record | {"trajectories": [*record["trajectories"], *failed]} if failed else record
            )
        return
    credit = _credit(view)
    for item in read_items(source.path):
        yield _item_group(item, source.dataset, source.step, credit)


def _credit(view: RunView) -> CreditConfig:
    """The run's options of what counts as a hit. The trained outcome is not needed here, and may be
    the code of whoever made the run: it is never run.
    """
    try:
        options = CreditConfig.model_validate(view.setting("credit", {}))
        return options.model_copy(update={"outcome": "em"})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("credit", *first["loc"])))
        raise InvalidInputError(
            f"{view.path / runs.CONFIG_NAME}: {where}: {first['msg']}"
        ) from None


def _item_group(
    item: dict[str, Any], dataset: str, step: int, credit: CreditConfig
) -> dict[str, Any]:
    trajectory = dict(item["trajectory"])
    golds = tuple(item["golden_answers"])
    turns = tuple(
        CreditTurn(
            turn.get("query"),
            turn.get("feedback", "") if turn["kind"] == "search" else "",
            turn["text"],
        )
        for turn in trajectory["turns"]
    )
    name = "miss"
    if turns:
        judged = judge(CreditTrajectory(trajectory.get("answer"), turns), golds, credit)
        name = judged.trajectory_class
        trajectory["first_occurrence"] = judged.first_occurrence
    trajectory |= {"outcome": item["em"], "f1": item.get("f1"), "class": name}
    return {
        "step": step,
        "group": [dataset, item["id"], 0],
        "question": item["question"],
        "golden_answers": list(golds),
        "supporting_ids": list(item.get("supporting_ids") or []),
        "group_class": None,
        "trajectories": [trajectory],
    }
