"""Training with rollouts that branch: what is recorded, shown, resumed, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Playground, run_tspo
from tests.training.rl.test_algorithm_runs import experiment, records, run_here
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import rule_problems
from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.assign import assign_batch
from tspo_cli.credit.from_rollouts import group_from_record
from tspo_cli.credit.laboratory.comparison import Arm, compare
from tspo_cli.credit.laboratory.recorded_groups import recorded_batches
from tspo_cli.reporting.inspect.transcript import transcript
from tspo_cli.reporting.sources.run_view import open_run
from tspo_cli.reporting.sources.trajectories import read_groups, sources
from tspo_cli.reporting.tables.credit_table import comparison_text

pytestmark = pytest.mark.slow

QUICK = ("train.steps=1", "eval.data=[]", "eval.every=0", "eval.at_start=false")


def test_a_run_with_trees(playground: Playground, tmp_path: Path) -> None:
    """It is resumed exactly, its records hold the trees, and every command shows them."""
    reward = tmp_path / "reward.py"
    reward.write_text("def length(answer, golds, trajectory):\n    return len(answer or '') / 10\n")
    settings = (
        "credit.algorithm=tree_grpo",
        f"credit.outcome={reward}:length",
        "rollout.group_size=4",
        "checkpoint.every=1",
        "train.keep_rollouts=1",
    )
    run, parts = tmp_path / "straight", tmp_path / "parts"
    rows = run_here(experiment(playground, *settings, train__steps=2), run)
    run_here(experiment(playground, *settings, train__steps=1), parts)
    config = experiment(playground, *settings, train__steps=2)
    assert run_here(config, parts, resume=True) == rows
    models = [(path / "model/model.safetensors").read_bytes() for path in (run, parts)]
    assert models[0] == models[1]

    assert config.tree.branching == "random", "the default of the algorithm"
    for row in rows:
        assert row["tree/branches"] > 0
        assert 0 < row["tree/shared_share"] < 1
        assert row["sampled_tokens"] == pytest.approx(4 * row["tree/sampled_tokens"])
        # A question ends within half a rollout of its budget, on either side.
        gap = abs(row["tree/sampled_tokens"] - row["tree/flat_tokens"])
        assert gap <= row["tree/flat_tokens"] / 8
    groups = records(run, 2)
    branches = 0
    for group in groups:
        by_number = {rollout["sample"]: rollout for rollout in group["trajectories"]}
        for rollout in group["trajectories"]:
            assert len(rollout["path"]) == len(rollout["turns"])
            shared = rollout["branch"]["turns"] if "branch" in rollout else 0
            assert rollout["path"][shared:] == [rollout["sample"]] * (
                len(rollout["turns"]) - shared
            )
            for index, owner in enumerate(rollout["path"]):
                assert by_number[owner]["turns"][index] == rollout["turns"][index]
            if shared:
                branches += 1
                assert rollout["branch"]["parent"] == rollout["path"][shared - 1]
                assert rollout["turns"][shared - 1]["kind"] == "search"
    assert branches == round(4 * rows[1]["tree/branches"])
    again = assign_batch(list(map(group_from_record, groups)), config.credit)
    for group, credit in zip(groups, again, strict=True):
        for rollout, credited in zip(group["trajectories"], credit.trajectories, strict=True):
            assert credited.advantages == pytest.approx(rollout["advantages"], abs=1e-9)

    view = open_run(run)
    (source,) = [one for one in sources(view) if one.label == "rollouts of step 2"]
    branch = next(
        rollout for group in groups for rollout in group["trajectories"] if "branch" in rollout
    )
    parent, turns = branch["branch"]["parent"] + 1, branch["branch"]["turns"]
    text = transcript(list(read_groups(view, source)))
    assert f"branch of rollout {parent} after turn {turns}" in text
    assert f"shared, sampled for rollout {branch['path'][0] + 1}" in text
    found = compare(
        recorded_batches(run),
        [Arm(name, CreditConfig(algorithm=name)) for name in ("grpo", "tree_grpo", "sipo")],
    )
    every = [
        rollout
        for step in (1, 2)
        for group in records(run, step)
        for rollout in group["trajectories"]
    ]
    shared = sum(rollout["branch"]["turns"] for rollout in every if "branch" in rollout)
    assert found.record()["shared_turns"] == shared
    assert f"({shared} of them shared with another rollout)" in comparison_text(found)


def test_two_processes_grow_the_same_trees(playground: Playground, tmp_path: Path) -> None:
    """Also where they take questions from each other, one at a time."""
    settings = ("credit.algorithm=at2po", "rollout.group_size=4")
    one, two = tmp_path / "one", tmp_path / "two"
    run_here(experiment(playground, *settings, train__steps=1), one)
    several = ("train.processes=2", "rollout.schedule=dynamic", "rollout.batch_size=3")
    options = [word for setting in (*settings, *several, *QUICK) for word in ("--set", setting)]
    run_tspo("train", "tiny/grpo", "--out", two, *playground.settings(), *options)
    groups = [records(run, 1) for run in (one, two)]
    # Log-probabilities differ in their last bits: other rollouts were in a batch.
    assert _shapes(groups[0]) == _shapes(groups[1])
    assert any("branch" in rollout for group in groups[1] for rollout in group["trajectories"])


def _shapes(groups: list[dict[str, Any]]) -> list[Any]:
    """What each rollout shares, and the texts of its turns."""
    return [
        (group["group"], rollout["path"], [turn["text"] for turn in rollout["turns"]])
        for group in groups
        for rollout in group["trajectories"]
    ]


def test_trees_that_cannot_train_are_refused() -> None:
    def problems(*settings: str) -> list[str]:
        config = load_config(["tiny/grpo"], ["tree.branching=random", *settings])
        return [line for line in rule_problems(config) if "tree." in line]

    assert problems() == []
    for settings, words in (
        (("rollout.max_searches=0",), "tree.branching: rollouts branch after a search"),
        (("tree.roots=6",), "tree.roots: 6 whole rollouts are more than the budget"),
        (("tree.max_rollouts=1",), "tree.max_rollouts: expected tree.roots or more"),
        (("credit.algorithm=ppo",), "tree.branching: not for ppo, whose critic"),
        (("credit.turn_count_baseline=true",), "credit.turn_count_baseline: not for rollouts that"),
    ):
        (line,) = problems(*settings)
        assert line.startswith(words)
