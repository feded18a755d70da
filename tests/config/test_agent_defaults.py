"""An experiment takes the agent of its model, wherever it sets nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.config.sections.agent_defaults import agent_comparison
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.signature import config_digest
from tspo_cli.evaluation.standalone import EvaluationRequest, eval_config
from tspo_cli.rollout.agent_file import write_agent_file
from tspo_cli.training.announce import loop_options


def model(folder: Path, k: int = 2, **rollout: Any) -> str:
    record = {"rollout": {"prompt": "short", **rollout}, "k": k}
    (folder / "tspo_agent.json").write_text(json.dumps(record))
    return f"model.path={folder}"


def test_keys_that_are_not_set_are_the_models(tmp_path: Path) -> None:
    path = model(tmp_path, max_new_tokens=64, max_prompt_tokens=256, temperature=0.5, group_size=9)
    config = load_config(["any/tspo"], [path])
    rollout = config.rollout
    assert (rollout.prompt, rollout.max_new_tokens, config.retriever.k) == ("short", 64, 2)
    assert rollout.max_prompt_tokens == 256
    assert (rollout.temperature, rollout.group_size) == (1.0, 5), "sampling is the training's own"
    assert agent_comparison(config)[1] == {}
    assert "rollout.max_new_tokens 64" in loop_options(config)[0]


def test_keys_that_are_set_stay_and_are_told(tmp_path: Path) -> None:
    path = model(tmp_path, max_new_tokens=64)
    config = load_config(["any/tspo"], [path, "rollout.max_new_tokens=40", "retriever.k=4"])
    assert agent_comparison(config)[1] == {
        "rollout.max_new_tokens": (40, 64),
        "retriever.k": (4, 2),
    }


def test_the_head_of_the_training_is_that_of_its_evaluation(tmp_path: Path) -> None:
    settings = ["model.path=m", "model.float32_head=true"]
    digests = []
    for more, wide in (([], True), (["model.float32_head=false"], False)):
        write_agent_file(tmp_path, load_config([], settings))
        request = EvaluationRequest("m", (), settings=tuple(more))
        config = eval_config(tmp_path, request)
        assert config.model.float32_head is wide
        digests.append(config_digest(config))
    assert len(set(digests)) == 2
    assert load_config(["any/tspo"], [f"model.path={tmp_path}"]).model.float32_head is False
    for plain in (["model.path=m"], ["kind=sft", "data.world=w", settings[1]]):
        write_agent_file(tmp_path, load_config([], plain))
        assert "float32_head" not in json.loads((tmp_path / "tspo_agent.json").read_text())
        config = eval_config(tmp_path, request)
        assert (config.model.float32_head, config_digest(config)) == (False, digests[1])


def test_another_prompt_has_its_own_length(tmp_path: Path) -> None:
    path = model(tmp_path, max_prompt_tokens=256, max_new_tokens=64)
    rollout = load_config(["any/tspo"], [path, "rollout.prompt=search_r1"]).rollout
    assert (rollout.max_prompt_tokens, rollout.max_new_tokens) == (2048, 64)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = model(tmp_path)
    (tmp_path / "tspo_agent.json").write_text("{")
    with pytest.raises(InvalidInputError, match=r"tspo_agent\.json: .*; export the model again$"):
        load_config(["any/tspo"], [path])
    (tmp_path / "tspo_agent.json").write_text('{"k": 2}')
    with pytest.raises(InvalidInputError, match=r"tspo_agent\.json"):
        load_config(["any/tspo"], [path])
    model(tmp_path, max_new_tokens="many")
    with pytest.raises(InvalidInputError, match=r"max_new_tokens: expected .*tspo_agent.json"):
        load_config(["any/tspo"], [path])


@pytest.mark.parametrize("value", [None, "many", -1e308, True])
def test_an_evaluation_names_the_damaged_file(tmp_path: Path, value: object) -> None:
    model(tmp_path, max_new_tokens=value)
    with pytest.raises(InvalidInputError) as refused:
        eval_config(tmp_path, EvaluationRequest(str(tmp_path), ("x",)))
    assert str(refused.value).startswith("rollout.max_new_tokens: expected ")
    assert str(refused.value).endswith(f" ({tmp_path / 'tspo_agent.json'})")
