"""Settings without effect are named before training or an evaluation; recipes have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.config.recipes import list_recipes
from tspo_cli.config.unused_settings import unused_in_evaluation, unused_settings

RL = ["kind=rl", "data.train=['q.jsonl']", "model.path=m", "retriever.index=i"]
SFT = ["kind=sft", "data.world=w", "retriever.index=i"]
OWN = "def rule(group, config):\n    return [[1.0] * len(one.hits) for one in group]\n"


def told(*settings: str) -> list[str]:
    return list(unused_settings(load_config([], settings)))


@pytest.mark.parametrize(
    ("given", "reason", "used_with"),
    [
        ("judge.url=http://127.0.0.1:1", "credit.outcome", "credit.outcome=judge"),
        ("vllm.url=['http://127.0.0.1:1']", "rollout.engine", "rollout.engine=vllm"),
        ("model.layers=4", "model.path", "model.path="),
        ("data.recycle_after=3", "data.recycle is 0", "data.recycle=0.5"),
        ("data.curriculum_floor=0.5", "data.curriculum", "data.curriculum=difficulty"),
        ("rollout.max_refills=9", "dynamic_sampling", "rollout.dynamic_sampling=true"),
        ("tree.roots=3", "tree.branching", "tree.branching=random"),
        ("critic.lr=1", "critic", "credit.algorithm=ppo"),
        ("lora.alpha=9", "lora.rank is 0", "lora.rank=8"),
        ("optimizer.final_lr=0.5", "optimizer.schedule", "optimizer.schedule=linear"),
        ("loss.kl_in=reward", "loss.kl is 0", "loss.kl=0.1"),
        ("loss.sum_length=9", "loss.aggregation", "loss.aggregation=sequence_sum"),
        ("loss.embedding_noise=5", "imitation", "kind=rejection_sampling"),
        ("credit.format_score=0.5", "credit.outcome", "credit.outcome=em_format"),
        ("credit.no_answer_penalty=0.5", "credit.outcome", "credit.outcome=f1_plus"),
        ("credit.length_free=5", "credit.length_penalty", "credit.length_penalty=0.1"),
        ("credit.overlong_buffer=5", "credit.overlong_limit", "credit.overlong_limit=9"),
        ("credit.siop.eta=1", "credit.algorithm is tspo", "credit.algorithm=siop"),
        ("collapse.lr_factor=0.1", "train.on_warning", "train.on_warning=lower_lr"),
        ("eval.limit=5", "eval.data", "eval.data=['t.jsonl']"),
        ("track.wandb_project=p", "track.wandb", "track.wandb=true"),
        ("deepspeed.offload_reference=true", "loss.kl", "loss.log_kl=true"),
        ("demonstrations.retry=0.1", "sft", "kind=sft"),
    ],
)
def test_a_setting_without_effect_is_named(given: str, reason: str, used_with: str) -> None:
    key = given.partition("=")[0]
    named = [line for line in told(*RL, given) if line.startswith(f"{key}: no effect, because ")]
    (line,) = named[:1]
    assert reason in line
    assert "\n" not in line
    more = ["data.world=w", "data.train=[]"] if used_with == "kind=sft" else []
    assert not any(key in line for line in told(*RL, given, used_with, *more))


@pytest.mark.parametrize("setting", ["float32_head=true", "dtype=bfloat16", "revision=main"])
def test_what_a_new_policy_does_not_use_is_said(setting: str) -> None:
    given = f"model.{setting}"
    (line,) = told(*SFT, given)
    assert line.startswith(f"{given.partition('=')[0]}: no effect, because data.world makes a new")
    assert not told(*SFT, given, "model.path=m")
    assert not told(*SFT)


def test_imitation_names_what_is_for_rollouts() -> None:
    (line,) = told(*SFT, "rollout.group_size=9", "credit.outcome=judge", "data.train=['q.jsonl']")
    assert line == (
        'data.train, rollout.group_size, credit.outcome: no effect, because kind = "sft" has no '
        "rollouts"
    )
    (line,) = told(*SFT, "judge.url=http://127.0.0.1:1", "judge.model=m")
    assert line.startswith("judge.url, judge.model: no effect")


def test_several_keys_with_one_reason_share_a_line() -> None:
    values = ["roots=3", "turns=3", "branches=2", "budget=rollouts", "max_rollouts=9"]
    (line,) = told(*RL, *(f"tree.{value}" for value in values))
    assert line == (
        "tree.roots, tree.turns, tree.branches, tree.budget and 1 more: no effect, because "
        'tree.branching is "none"'
    )


def test_a_rule_of_the_users_own_may_read_all_of_credit(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    own = f"credit.algorithm={tmp_path}/mine.py:rule"
    assert not told(*RL, own, "credit.siop.eta=1", "credit.format_score=0.5")


def test_what_an_algorithm_sets_itself_is_not_said() -> None:
    for name in ("ppo", "tree_grpo", "gigpo", "igpo"):
        assert not told(*RL, f"credit.algorithm={name}")


def test_recipes_give_nothing_without_effect() -> None:
    for name in list_recipes():
        assert not list(unused_settings(load_config([name]))), name


def test_an_evaluation_names_what_it_does_not_read() -> None:
    settings = [
        "judge.model=m",
        "endpoint.api=chat",
        "eval.data=['x']",
        "loss.kl=1",
        "eval.limit=3",
    ]
    judge, endpoint, training = unused_in_evaluation(load_config([], settings))
    assert judge == "judge.model: no effect, because judge.url is not set"
    assert endpoint == "endpoint.api: no effect, because endpoint.url is not set"
    assert training.endswith("no effect, because only tspo train reads this")
    assert training.startswith("loss.kl, eval.data: ")
    given = [
        "judge.model=m",
        "judge.url=u",
        "endpoint.api=chat",
        "endpoint.url=u",
        "train.threads=2",
    ]
    assert not list(unused_in_evaluation(load_config([], given)))
