"""What a model's own training says about the agent: `tspo_agent.json` in the model directory.

An experiment that starts from such a model takes the prompt, the budget and the limits from it,
wherever the experiment sets nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tspo_cli.config.old_records import rollout_as_recorded
from tspo_cli.config.schema import Config, RolloutConfig
from tspo_cli.config.tables import Table
from tspo_cli.digests import json_digest
from tspo_cli.errors import InvalidInputError, advising
from tspo_cli.plain_files import require_plain
from tspo_cli.runs import read_json

AGENT_FILE = "tspo_agent.json"
_EXPECTED = "TSPO_EXPECTED_AGENT"
"""Variable with the digest of what the experiment took from the file of its model."""
# Keys of [rollout] that say how a training samples. All others say what the agent is.
_SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "questions_per_step", "group_size", "batch_size"),
        *("engine", "turn_deadline", "trajectory_deadline", "one_step_off", "dynamic_sampling"),
        *("max_refills", "schedule"),
    }
)
# Keys that belong to the prompt that the model was trained with, and to no other.
_OF_THE_PROMPT = frozenset({"max_prompt_tokens", "question_mark", "titles", "after_eos"})


def read_agent_file(model_dir: Path) -> Table:
    """The options as configuration, `{"rollout": {...}, "retriever": {"k": ...}}`, and `"model":
    {"float32_head": true}` where it was trained so. Empty for a model without the file, such as one
    from the hub.

    Raises:
        InvalidInputError: the file is not one that tspo writes beside a model.
    """
    path = model_dir / AGENT_FILE
    require_plain(path)
    if not path.is_file():
        return {}
    with advising("export the model again"):
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
    head = "float32_head"
    return {
        "rollout": rollout_as_recorded(rollout),
        "retriever": {"k": record["k"]},
        "model": {head: record[head]} if head in record else {},
    }


@contextmanager
def same_agent(model: str) -> Iterator[None]:
    """Within the block, in this process and those that it starts, `require_same_agent` compares
    with what the directory says now, when the experiment has just been read.
    """
    os.environ[_EXPECTED] = _digest(model)
    try:
        yield
    finally:
        os.environ.pop(_EXPECTED, None)


def require_same_agent(model: str) -> None:
    """Raises InvalidInputError if the model directory was replaced after `same_agent` began: its
    weights would answer with the prompt and the limits of another model.
    """
    expected = os.environ.get(_EXPECTED)
    if expected is not None and _digest(model) != expected:
        raise InvalidInputError(f"{model}: was replaced while it was read; try again")


def _digest(model: str) -> str:
    return json_digest(read_agent_file(Path(model)) if model else {})


def agent_defaults(table: Mapping[str, Any]) -> tuple[str, Table]:
    """The file of the model that `table` starts from, and the keys that it gives to an experiment.
    Both are empty for a model without such a file.

    Raises:
        InvalidInputError: as `read_agent_file`.
    """
    model = table.get("model")
    path = model.get("path") if isinstance(model, dict) else None
    agent = read_agent_file(Path(path)) if isinstance(path, str) and path else {}
    if not agent:
        return "", {}
    recorded, stated = agent["rollout"], table.get("rollout")
    prompt = stated.get("prompt") if isinstance(stated, dict) else None
    left_out = _SAMPLING
    if prompt is not None and prompt != recorded.get("prompt"):
        left_out = left_out | _OF_THE_PROMPT
    rollout = {key: value for key, value in recorded.items() if key not in left_out}
    return str(Path(str(path)) / AGENT_FILE), {"rollout": rollout, "retriever": agent["retriever"]}


def agent_comparison(config: Config) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """What `config` takes from the agent of its model, and where it differs from that agent.

    Returns ({key: value} without the values that are defaults anyway, {key: (the experiment's
    value, the model's)}); keys are dotted.
    """
    _, agent = agent_defaults(config.section_dict())
    taken: dict[str, Any] = {}
    differing: dict[str, tuple[Any, Any]] = {}
    given, defaults = config.section_dict(), Config().section_dict()
    for section, values in agent.items():
        for key, value in values.items():
            here = given[section][key]
            if here != value:
                differing[f"{section}.{key}"] = (here, value)
            elif value != defaults[section][key]:
                taken[f"{section}.{key}"] = value
    return taken, differing
