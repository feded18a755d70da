"""The rollout options of an exported model, and how its logits are computed, in a file of its
directory, so that evaluation needs no experiment file.
"""

from __future__ import annotations

from pathlib import Path

from tspo_cli.config.schema import Config
from tspo_cli.config.sections.agent_defaults import AGENT_FILE
from tspo_cli.runs import write_json


def write_agent_file(model_dir: Path, config: Config) -> None:
    """Write the rollout options and the k that the model was trained with, and whether its logits
    are computed in float32.
    """
    head = {"float32_head": True} if config.model.path and config.model.float32_head else {}
    write_json(
        model_dir / AGENT_FILE,
        {"rollout": config.rollout.model_dump(mode="json"), "k": config.retriever.k, **head},
    )
