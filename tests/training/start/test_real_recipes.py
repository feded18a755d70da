"""Runs that cannot learn say so, and the recipes for any language model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.config.sections.agent_sections import ModelConfig
from tspo_cli.models.load_model import load_tokenizer
from tspo_cli.models.tiny import tiny_model
from tspo_cli.runs import read_json

KEYS = {
    "any/sft": ("model.path", "data.demonstrations"),
    "any/grpo": ("model.path", "data.train", "retriever.index"),
    "any/tspo": ("model.path", "data.train", "retriever.index"),
}


def settings_of(values: dict[str, object]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def test_a_run_that_cannot_learn_says_why_within_the_first_step(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    model = tiny_model(len(load_tokenizer(playground.model)), ModelConfig(copy_prior=False), seed=0)
    model.save_pretrained(tmp_path / "untaught")
    load_tokenizer(playground.model).save_pretrained(tmp_path / "untaught")
    untaught = playground.settings(
        train__steps=1,
        eval__data="[]",
        eval__every=0,
        rollout__max_new_tokens=6,
    )
    run = tmp_path / "run"
    done = tspo("train", "tiny/grpo", "--out", run, *untaught)
    (warning,) = [line for line in done.err.splitlines() if "nothing can be learnt" in line]
    assert warning.startswith("warning: step 1: no rollout searched or answered")
    assert "rollout.prompt" in warning
    assert warning.removeprefix("warning: ") in read_json(run / "status.json")["warnings"]
    assert "nothing can be learnt" in tspo("runs", "show", run, "--json").out
    (step,) = [line for line in done.err.splitlines() if "s/step" in line]
    assert re.search(r"answered 0% searches 0\.0 dropped 12/12 [\d.]+ s/step 0:00 left", step)
    assert len(step) <= 100
    (work,) = [line for line in done.err.splitlines() if line.startswith("training: ")]
    assert re.fullmatch(r"training: 1 step, 60 training questions \([\d.e-]+ epochs\)", work)
    assert done.err.index(work) < done.err.index(step), "said before the first step is made"


@pytest.mark.parametrize("recipe", KEYS)
def test_a_recipe_needs_its_keys_and_nothing_else(recipe: str, playground: Playground) -> None:
    values: dict[str, object] = {
        "model.path": playground.model,
        "data.train": json.dumps([str(playground.world / "train.jsonl")]),
        "data.demonstrations": '["demos.jsonl"]',
        "retriever.index": playground.index,
    }
    given = {key: values[key] for key in KEYS[recipe]}
    assert run_tspo("config", "validate", recipe, *settings_of(given)).code == 0
    for missing in given:
        rest = {key: value for key, value in given.items() if key != missing}
        done = run_tspo("config", "validate", recipe, *settings_of(rest))
        assert done.code == 3
        assert missing in done.err + done.out


def test_a_model_hands_its_limits_on_and_the_file_wins(
    playground: Playground, tspo: Callable[..., Finished]
) -> None:
    trained = read_json(playground.model / "tspo_agent.json")
    values = {
        "model.path": playground.model,
        "data.train": json.dumps([str(playground.world / "train.jsonl")]),
        "retriever.index": playground.index,
    }
    taken = tspo("train", "any/tspo", "--dry-run", "--json", *settings_of(values))
    rollout = json.loads(taken.out)["rollout"]
    for key in ("prompt", "max_searches", "max_new_tokens", "max_observation_tokens"):
        assert rollout[key] == trained["rollout"][key]
    assert json.loads(taken.out)["retriever"]["k"] == trained["k"]
    other = trained["rollout"]["max_new_tokens"] + 9
    values["rollout.max_new_tokens"] = other
    set_here = tspo("train", "any/tspo", "--dry-run", "--json", *settings_of(values))
    assert json.loads(set_here.out)["rollout"]["max_new_tokens"] == other
    assert any(
        "rollout.max_new_tokens" in line and str(other) in line
        for line in set_here.err.splitlines()
    )
