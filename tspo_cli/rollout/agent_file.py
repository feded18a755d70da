"""The rollout options of an exported model, in a file of its directory, so that evaluation needs no
experiment file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tspo_cli.config.old_records import rollout_as_recorded
from tspo_cli.config.schema import Config, RolloutConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json, write_json

AGENT_FILE = "tspo_agent.json"


def write_agent_file(model_dir: Path, config: Config) -> None:
    """Write the rollout options and the k that the model was trained with."""
    write_json(
        model_dir / AGENT_FILE,
        {"rollout": config.rollout.model_dump(mode="json"), "k": config.retriever.k},
    )


def read_agent_file(model_dir: Path) -> dict[str, Any]:
    """The options as configuration, `{"rollout": {...}, "retriever": {"k": ...}}`. Empty for a
    model without the file, such as one from the hub.

    Raises:
        InvalidInputError: the file was not written by `write_agent_file`.
    """
    path = model_dir / AGENT_FILE
    if not path.is_file():
        return {}
    record = read_json(path)
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("rollout"), dict)
        or "k" not in record
    ):
        raise InvalidInputError(
            f'{path}: expected {{"rollout": {{...}}, "k": ...}}; export the model again'
        )
    rollout = {
        key: value for key, value in record["rollout"].items() if key in RolloutConfig.model_fields
    }
    return {"rollout": rollout_as_recorded(rollout), "retriever": {"k": record["k"]}}
