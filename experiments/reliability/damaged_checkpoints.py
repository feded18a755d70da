"""Mutations of the checkpoints of a run directory."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from experiments.reliability.damage import (
    Mutation,
    byte_damage,
    edit_json,
    json_damage,
    tensor_edits,
)
from tspo_cli.digests import file_digest, json_digest
from tspo_cli.runs import checkpoint_folders
from tspo_cli.training.core.checkpoints.checkpoint import INDEX, STATE
from tspo_cli.training.core.checkpoints.checkpoint_files import part_names

(STATE_FILE,) = part_names(STATE, 1)


def signed(mutation: Mutation) -> Mutation:
    """The same, with the digests of the checkpoint as they are now."""

    def change(path: Path) -> None:
        mutation.change(path)
        state = path.parent / STATE_FILE

        def sign(record: dict[str, Any]) -> dict[str, Any]:
            record.pop("sha256", None)
            if state.is_file():
                facts = {"bytes": state.stat().st_size, "sha256": file_digest(state)}
                record["files"] = {STATE_FILE: facts}
            return record | {"sha256": json_digest(record)}

        edit_json(path.parent / INDEX, sign)

    return Mutation(f"{mutation.name}, signed", mutation.file, change)


def checkpoint_mutations(run: Path, count: int, draw: random.Random) -> list[Mutation]:
    """At most `count`, of the newest checkpoint: tensors that lie, then chance."""
    folder = str(checkpoint_folders(run)[-1].relative_to(run))
    state, index = f"{folder}/{STATE_FILE}", f"{folder}/{INDEX}"
    name = "model.layers.0.mlp.up_proj.weight"
    parameter, moment = f"param.{name}", f"exp_avg.{name}"
    lies = tensor_edits(
        state,
        {
            "no parameter": lambda t: t.pop(parameter),
            "no moment": lambda t: t.pop(moment),
            "nothing": lambda t: t.clear(),
            "NaN": lambda t: t[parameter][0].fill_(float("nan")),
            "infinite moment": lambda t: t[moment].fill_(float("inf")),
            "negative variance": lambda t: t[f"exp_avg_sq.{name}"].fill_(-1.0),
            "integers": lambda t: t.update({parameter: t[parameter].int()}),
            "another shape": lambda t: t.update({parameter: t[parameter][:-1].clone()}),
            "a parameter more": lambda t: t.update({"param.zzz": t[parameter] + 1}),
            "another value": lambda t: t[parameter].add_(1.0),
        },
    )
    made = [*lies, *(signed(lie) for lie in lies if not lie.name.startswith("another value"))]
    while len(made) < count:
        file = draw.choice((state, index))
        by_bytes = file == state or draw.random() < 0.4
        made.append(byte_damage(file, draw) if by_bytes else json_damage(file, draw))
    return made[:count]
