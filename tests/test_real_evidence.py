"""The study on real questions: experiments as its plan says, tables as its runs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.evidence.real import run as study
from experiments.real.stages import Machine, RealOptions, real_stages
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sweeps.sweep_cells import read_sweep
from tspo_cli.runs import append_jsonl

ROOT = Path(__file__).resolve().parent.parent


def cells(file: Path) -> dict[str, dict[str, Any]]:
    return {cell.name: cell.config.section_dict() for cell in read_sweep(ROOT / file).cells}


def test_arms_differ_in_credit_alone() -> None:
    found = cells(study.MAIN)
    seeds = {config["seed"] for config in found.values()}
    assert len(seeds) == 3
    assert len(found) == 9
    for seed in seeds:
        arms = [config for config in found.values() if config["seed"] == seed]
        algorithms = {config["credit"]["algorithm"] for config in arms}
        assert algorithms == {"grpo", "tspo", "retrieval_bonus"}
        assert all(config["eval"]["limit"] == study.HELD_OUT for config in arms)
        others = [{**config, "credit": None} for config in arms]
        assert all(config == others[0] for config in others)


def test_the_start_stays_as_it_was_planned() -> None:
    options = RealOptions(out=Path("start"), model="m", demos=224, warm_start=study.START)
    stages = {stage.title.split()[0]: stage for stage in real_stages(options, Machine(1, 1))}
    corpus, demos = stages["corpus"].commands[0], stages["demonstrations"].commands[0]
    assert "--gold-only" in corpus.arguments
    assert {"--restate", "--distant", "--exclude-seen"} & {*demos.arguments} == {"--restate"}
    recipe, _, folder, *words = stages["untaught"].commands[0].arguments[1:]
    config = load_config([recipe], words[1::2])
    assert folder == "start/warmstart"
    assert (config.train.steps, config.retriever.k, config.rollout.exclude_seen) == (56, 1, False)


def write_steps(run: Path, rewards: list[float]) -> None:
    run.mkdir(parents=True)
    for step, reward in enumerate(rewards, start=1):
        shares = dict.fromkeys(study.MEANS, 0.25)
        append_jsonl(run / "metrics.jsonl", {**shares, "step": step, "reward": reward})


def test_the_table_of_training_has_means_over_the_runs_of_an_arm(tmp_path: Path) -> None:
    rows = []
    for arm, seed, f1 in (("grpo", 0, 0.2), ("grpo", 1, 0.4), ("tspo", 0, 0.5)):
        write_steps(tmp_path / arm / f"seed{seed}", [0.0, 1.0])
        for step in (0, 2):
            row = {"arm": arm, "seed": seed, "step": step, "f1": f1 if step else 0.9}
            rows.append(study._with_means({**row, "train_cpu_seconds": 7.0}, tmp_path))
    head, _, *lines = study._training_table(rows).splitlines()
    assert head.startswith(
        "| arm | f1 | reward | all correct | mixed | all wrong near miss | all miss |"
    )
    assert lines == [
        "| grpo | 0.3 | 0.5 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 7 |",
        "| tspo | 0.5 | 0.5 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 7 |",
    ]


def test_the_figure_gets_the_rewards_of_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    write_steps(tmp_path / "grpo/seed0", [0.0, 1.0])
    write_steps(tmp_path / "grpo/seed1", [0.5, 0.5])
    write_steps(tmp_path / "tspo/seed0", [1.0, 1.0])
    rows = [{"arm": arm, "seed": seed} for arm, seed in (("grpo", 0), ("grpo", 1), ("tspo", 0))]
    rewards = study._rewards(rows)
    assert rewards == {"grpo": [[0.0, 1.0], [0.5, 0.5]], "tspo": [[1.0, 1.0]]}


@pytest.mark.parametrize("table", ["start", "main", "training"])
def test_the_page_has_a_place_for_every_table(table: str) -> None:
    page = (ROOT / study.HERE / "README.md").read_text("utf-8")
    assert f"<!-- table {table} -->\n" in page
