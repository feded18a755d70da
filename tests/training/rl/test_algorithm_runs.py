"""Runs with a critic, with gold beliefs, with refills, by imitation, and ones that stop early; all
in one process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Playground
from tspo_cli.commands.train import train_here
from tspo_cli.config.load_config import load_config, write_resolved
from tspo_cli.config.schema import Config
from tspo_cli.credit.assign import assign_batch
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.credit.from_rollouts import group_from_record
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json, read_jsonl, read_jsonl_gz, start_attempt
from tspo_cli.training.announce import loop_options
from tspo_cli.training.early_stop import parse_rules
from tspo_cli.training.launch.claim import claimed_run
from tspo_cli.training.problems import refuse_problems

pytestmark = pytest.mark.slow


def experiment(
    playground: Playground, *settings: str, recipe: str = "tiny/grpo", **more: object
) -> Config:
    base = playground.settings(
        **{
            "train__steps": 3,
            "eval__data": "[]",
            "eval__every": 0,
            "eval__at_start": "false",
            **more,
        }
    )
    config = load_config([recipe], [*base[1::2], *settings])
    refuse_problems(config)
    return config


def run_here(config: Config, run: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    with claimed_run(run, resume=resume, overwrite=False):
        write_resolved(config, run)
        train_here(config, run, start_attempt(run), resume)
    rows = list(read_jsonl(run / "metrics.jsonl"))
    names = {name for row in rows for name in row} - {"step"}
    parse_rules([f"{name} > 0 for 1" for name in names], config.kind)  # all of them are known
    return rows


def records(run: Path, step: int) -> list[dict[str, Any]]:
    return list(read_jsonl_gz(run / "rollouts" / f"step_{step:06d}.jsonl.gz"))


def test_ppo_resumes_exactly_with_its_critic(playground: Playground, tmp_path: Path) -> None:
    settings = ("loss.kl=0.01", "loss.kl_in=reward", "critic.head_start=1", "checkpoint.every=1")
    straight = run_here(experiment(playground, *settings, recipe="tiny/ppo"), tmp_path / "straight")
    run_here(
        experiment(playground, *settings, recipe="tiny/ppo", train__steps=1), tmp_path / "parts"
    )
    resumed = run_here(
        experiment(playground, *settings, recipe="tiny/ppo"), tmp_path / "parts", resume=True
    )
    assert resumed == straight
    models = [
        (tmp_path / name / "model/model.safetensors").read_bytes() for name in ("straight", "parts")
    ]
    assert models[0] == models[1]
    assert "policy_loss" not in straight[0], "the critic has a head start of one step"
    assert all(row["value_loss"] > 0 and row["critic_lr"] == 1e-3 for row in straight)
    assert all("policy_loss" in row for row in straight[1:])
    turn_level = [
        rollout["advantages"]
        for group in records(tmp_path / "straight", 3)
        for rollout in group["trajectories"]
    ]
    assert any(len(set(row)) > 1 for row in turn_level), "a critic tells turns apart"


def test_igpo_measures_what_it_rewards(playground: Playground, tmp_path: Path) -> None:
    config = experiment(playground, recipe="tiny/igpo", train__steps=1)
    row = run_here(config, tmp_path / "run")[0]
    assert row["groups/nonzero_advantage"] > 0
    groups = records(tmp_path / "run", 1)
    for group in groups:
        starts = {rollout["gold_logprobs"][0] for rollout in group["trajectories"]}
        assert len(starts) == 1, "before the first turn all know the same"
        for rollout in group["trajectories"]:
            assert len(rollout["gold_logprobs"]) == len(rollout["turns"])
            assert all(value < 0 for value in rollout["gold_logprobs"])
    # What the records hold is enough to credit them again.
    again = assign_batch(list(map(group_from_record, groups)), config.credit)
    for group, credit in zip(groups, again, strict=True):
        for rollout, credited in zip(group["trajectories"], credit.trajectories, strict=True):
            assert credited.advantages == pytest.approx(rollout["advantages"], abs=1e-9)


KNOWN_WORDS = "<think> it is found </think> <answer>"  # of the tiny policy's vocabulary


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("stratified_grpo", ()),
        ("a2tgpo", (f"credit.a2tgpo.belief_prefix={KNOWN_WORDS}",)),
        ("mig", (f"credit.mig.belief_prefix={KNOWN_WORDS}",)),
        ("siop", (f"credit.siop.belief_prefix={KNOWN_WORDS}", "credit.siop.probability=shares")),
        ("tips", (f"credit.tips.belief_prefix={KNOWN_WORDS}",)),
        ("cw_grpo", ("credit.length_penalty=0.01",)),
        ("carl", ()),
    ],
)
def test_a_method_trains(
    playground: Playground, tmp_path: Path, algorithm: str, settings: tuple[str, ...]
) -> None:
    """Two steps with a reward that differs within groups."""
    reward = tmp_path / "reward.py"
    reward.write_text("def length(answer, golds, trajectory):\n    return len(answer or '') / 10\n")
    config = experiment(
        playground,
        f"credit.algorithm={algorithm}",
        f"credit.outcome={reward}:length",
        *settings,
        train__steps=2,
    )
    run = tmp_path / "run"
    rows = run_here(config, run)
    assert len(rows) == 2
    assert all(row["groups/nonzero_advantage"] > 0 and row["grad_norm"] > 0 for row in rows)
    if "critic" in find_algorithm(algorithm).needs:
        return
    groups = records(run, 2)  # what the records hold is enough to credit them again
    again = assign_batch(list(map(group_from_record, groups)), config.credit)
    for group, credit in zip(groups, again, strict=True):
        for rollout, credited in zip(group["trajectories"], credit.trajectories, strict=True):
            assert credited.advantages == pytest.approx(rollout["advantages"], abs=1e-9)
            assert list(credited.clip_scales) == pytest.approx(rollout.get("clip_scales", []))


def test_dynamic_sampling_refills_within_bounds(playground: Playground, tmp_path: Path) -> None:
    config = experiment(
        playground, "credit.algorithm=dapo", "rollout.max_refills=2", train__steps=2
    )
    rows = run_here(config, tmp_path / "run")
    for row in rows:
        groups = records(tmp_path / "run", int(row["step"]))
        assert len(groups) == 4 * (1 + row["refills"])
        assert row["rollouts"] == 3 * len(groups)
        signal = sum(
            any(any(rollout["advantages"]) for rollout in group["trajectories"]) for group in groups
        )
        assert row["trained_groups"] == min(4, signal)
        assert row["refills"] == 2 or signal >= 4
        assert row["dropped"] == 0
        ids = [tuple(group["group"]) for group in groups]
        assert len(set(ids)) == len(ids), "a question that is drawn again is another group"


def test_rejection_sampling_imitates_what_it_keeps(playground: Playground, tmp_path: Path) -> None:
    """With an outcome that every rollout earns, something is kept in every step."""
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def answered(answer, golds, trajectory):\n    return 1.0 + len(trajectory.turns)\n"
    )
    config = experiment(
        playground,
        f"credit.outcome={reward}:answered",
        recipe="tiny/rejection_sampling",
        train__steps=2,
    )
    rows = run_here(config, tmp_path / "run")
    for row in rows:
        assert row["imitated"] == 4, "the best rollout of each question"
        groups = records(tmp_path / "run", int(row["step"]))
        kept = [
            rollout
            for group in groups
            for rollout in group["trajectories"]
            if any(rollout["advantages"])
        ]
        assert row["tokens"] == sum(turn["tokens"] for rollout in kept for turn in rollout["turns"])
        assert row["agent_loss"] == pytest.approx(row["loss"], abs=1e-6)
        assert row["em"] <= 1 < row["reward"], "what is reported is not what is trained"


def test_a_rule_ends_a_run_and_the_best_policy_is_kept(
    playground: Playground, tmp_path: Path
) -> None:
    data = f'["{playground.world / "test.jsonl"}"]'
    config = experiment(
        playground, ('train.stop_when=["searches < 99 for 2", "judge > 1 for '
                    '1"]'), "eval.at_start=true",
        train__steps=5, eval__data=data, eval__every=1, eval__limit=4,
    )  # fmt: skip
    run = tmp_path / "run"
    rows = run_here(config, run)
    assert [row["step"] for row in rows] == [1, 2]
    assert read_json(run / "status.json")["state"] == "finished"
    log = (run / "logs/attempt_1.log").read_text()
    assert "step 2: stopped early, because searches < 99 for 2" in log
    assert "step 1 has no metric judge" in log
    assert (run / "model/model.safetensors").is_file()
    assert (run / "checkpoints/step_000002").is_dir()
    scores = {
        int(path.name.split("_")[1]): read_json(path / "world.json")["em"]
        for path in (run / "eval").iterdir()
    }
    best = read_json(run / "best/best.json")
    assert best["value"] == max(scores.values())
    assert best["step"] == min(step for step, value in scores.items() if value == best["value"])
    assert (run / "best/tspo_agent.json").is_file()
    names = (
        "broken_tag_share",
        "repeated_query_share",
        "duplicate_result_share",
        "false_positive_rate",
        "em",
        "f1",
    )
    assert all(0 <= row[name] <= 1 for row in rows for name in names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["credit.algorithm=rloo", "rollout.group_size=1"], "rollout.group_size: rloo compares"),
        (["loss.kl=0.1", "loss.kl_in=reward"], "loss.kl_in"),
        (["credit.algorithm=ppo", "rollout.dynamic_sampling=true"], "rollout.dynamic_sampling"),
        (
            ["credit.algorithm=rejection_sampling"],
            'credit.algorithm: rejection_sampling trains with kind = "rejection_sampling"',
        ),
        (["kind=rejection_sampling"], 'credit.algorithm: grpo trains with kind = "rl"'),
        (["credit.algorithm=grop"], "did you mean grpo"),
        (['train.stop_when=["reward is low"]'], "METRIC < NUMBER for STEPS"),
        (['train.stop_when=["reward < 1 for 0"]'], "METRIC < NUMBER for STEPS"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    playground: Playground, settings: list[str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        experiment(playground, *settings)


def test_choices_are_said_before_a_run(playground: Playground) -> None:
    text = "\n".join(
        loop_options(experiment(playground, "credit.algorithm=dapo", "loss.entropy=0.01"))
    )
    for part in (
        "algorithm: dapo",
        "standard deviation: unbiased + 1e-06",
        "at most 2 turns that may search, then one that may not",
        "a group is (data set, question, draw)",
        "top-p 1",
        "1 optimiser update per rollout batch",
        "KL to the starting policy 0, entropy bonus 0.01",
        "note: loss.clip_high is 0.2; the default of dapo is 0.28",
        "replaced by up to 3 more batches",
    ):
        assert part in text


@pytest.mark.parametrize(
    "algorithm",
    [
        "dr_grpo",
        "rloo",
        "reinforce_pp",
        "reinforce_pp_baseline",
        "gspo",
        "mt_grpo",
        "gigpo",
        "retrieval_bonus",
    ],
)
def test_every_other_algorithm_takes_a_step(
    playground: Playground, tmp_path: Path, algorithm: str
) -> None:
    """With a reward that differs within groups, so that there is something to learn, in two
    updates.
    """
    reward = tmp_path / "reward.py"
    reward.write_text("def length(answer, golds, trajectory):\n    return len(answer or '') / 10\n")
    config = experiment(
        playground,
        *(
            f"credit.algorithm={algorithm}",
            f"credit.outcome={reward}:length",
            "train.updates_per_step=2",
        ),
        train__steps=1,
    )
    row = run_here(config, tmp_path / "run")[0]
    assert row["grad_norm"] > 0
    assert row["groups/nonzero_advantage"] > 0
