"""Groups from the rollouts that a run has recorded, so that any algorithm can be applied to them
afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tspo_cli import runs
from tspo_cli.credit.from_rollouts import group_from_record
from tspo_cli.credit.group import Group
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.record_digests import check_complete
from tspo_cli.rollout.records import GroupRecord, read_step


def recorded_batches(
    run: Path, first: int = 1, last: int | None = None
) -> Iterator[tuple[int, list[Group]]]:
    """(step, its groups) of every training step from `first` to `last` whose rollouts were kept, by
    step.

    Raises:
        MissingResourceError: the run keeps no rollouts of these steps.
        InvalidInputError: a damaged file, or one that holds no rollouts.
    """
    check_complete(run / runs.ROLLOUTS_NAME)
    paths = dict(runs.rollout_files(run))
    wanted = [step for step in sorted(paths) if step >= first and (last is None or step <= last)]
    if not wanted:
        kept = (
            f"; kept are {min(paths)} to {max(paths)}"
            if paths
            else "; only reinforcement learning and rejection sampling record them "
            "(train.keep_rollouts = 1)"
        )
        raise MissingResourceError(f"{run}: no recorded rollouts of the steps asked for{kept}")
    for step in wanted:
        yield step, list(_groups(paths[step], step))


def _group(record: GroupRecord, where: str) -> Group:
    try:
        return group_from_record(record)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None


def _groups(path: Path, step: int) -> Iterator[Group]:
    try:
        for number, record in enumerate(read_step(path, step), start=1):
            if record["trajectories"]:  # none where every rollout failed
                yield _group(record, f"{path}:{number}")
    except (KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{path}: not the rollouts of a training run (no {error})"
        ) from None
