"""What the gradient of an update depends on, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.core.learner_worker import VOCABULARY, make_config, make_learner, make_sequences
from tspo_cli.data.question import Question
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn
from tspo_cli.training.core.critic import Critic, ValueModel
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.optimizer_state import full_state
from tspo_cli.training.core.sequences import TrainSequence, policy_sequence


@pytest.fixture(scope="module", autouse=True)
def process_group() -> None:
    init_distributed()


def gradient(
    sequences: list[TrainSequence], *settings: str
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The gradient of one update, from Adam's first moment (0.1 of it after the first update), and
    the metrics.
    """
    learner = make_learner(
        make_config(
            "loss.kl=0",
            "model.copy_prior=false",
            "optimizer.betas=[0.9, 0.95]",
            "optimizer.grad_clip=0",
            *settings,
        )
    )
    metrics = learner.update_policy(sequences)
    state = full_state(learner.core.engine, learner.module, keep=True, has_moments=True)
    return {
        name: value / 0.1 for name, value in state.items() if name.startswith("exp_avg.")
    }, metrics


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """The difference of the two gradients is at most 1e-6 long."""
    assert first.keys() == second.keys()
    length = torch.stack([value.double().norm() for value in first.values()]).norm()
    apart = torch.stack(
        [(value.double() - second[name].double()).norm() for name, value in first.items()]
    ).norm()
    assert length > 1e-2, "there must be something to compare"
    assert apart <= 1e-6


@pytest.mark.parametrize("ratio", ["token", "turn", "sequence"])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum"])
def test_two_splits_of_a_batch_give_the_same_gradient(ratio: str, aggregation: str) -> None:
    sequences = with_turns(make_sequences(0))
    options = (f"loss.ratio={ratio}", f"loss.aggregation={aggregation}", "loss.sum_length=20")
    whole, _ = gradient(sequences, "train.tokens_per_micro_batch=10000", *options)
    split, _ = gradient(sequences, "train.tokens_per_micro_batch=32", *options)
    assert_same(whole, split)


def with_turns(sequences: list[TrainSequence]) -> list[TrainSequence]:
    """Turns of six tokens, sampled by a policy near to the one that is trained."""
    scores = make_learner(make_config("loss.kl=0", "model.copy_prior=false")).logprobs(sequences)
    return [
        TrainSequence(
            sequence.token_ids,
            sequence.weights,
            sequence.advantages,
            [
                value + 0.05 * (place % 3) * (weight > 0)
                for place, (value, weight) in enumerate(zip(row, sequence.weights, strict=True))
            ],
            [place // 6 if weight else -1 for place, weight in enumerate(sequence.weights)],
        )
        for sequence, row in zip(sequences, scores, strict=True)
    ]


def test_the_loss_does_not_reach_prompt_and_feedback() -> None:
    """At every position that predicts a token of prompt or feedback the gradient is exactly 0;
    elsewhere it is not.
    """
    turns = (
        Turn(
            (5, 6, 7),
            (-4.0, -4.1, -4.2),
            "stop",
            "search",
            "",
            query="q",
            feedback="f",
            feedback_ids=(8, 9, 10, 11),
        ),
        Turn((12, 13), (-4.0, -4.1), "stop", "answer", "", answer="a"),
    )
    trajectory = Trajectory(
        GroupId("d", "q", 0), 0, Question("q", "Who?", ("a",), "d"), (1, 2, 3, 4), turns
    )
    sequence = policy_sequence(trajectory, [0.7, -0.3])
    learner = make_learner(make_config("loss.kl=0", "loss.clip_low=1", "loss.clip_high=1e6"))
    seen: list[torch.Tensor] = []

    def watch(_module: Any, _inputs: Any, output: Any) -> None:
        output.last_hidden_state.retain_grad()
        seen.append(output.last_hidden_state)

    learner.module.base_model.register_forward_hook(watch)
    learner.update_policy([sequence])
    assert seen[0].grad is not None
    norms = seen[0].grad[0].norm(dim=-1)
    predicting = [place - 1 for place, turn in enumerate(trajectory.turn_of_token()) if turn >= 0]
    assert predicting == [3, 4, 5, 10, 11]
    for place, norm in enumerate(norms.tolist()):
        assert (norm > 0) == (place in predicting), f"position {place}: {norm}"


def test_dropping_zero_advantages_is_exact_and_counted() -> None:
    sequences = make_sequences(0)
    silent = [
        TrainSequence(
            sequence.token_ids,
            sequence.weights,
            [0.0] * len(sequence.weights),
            sequence.old_logprobs,
        )
        for sequence in sequences
    ]
    mixed = [*sequences[:3], *silent[3:]]
    for aggregation in ("token_mean", "sequence_mean", "sequence_sum"):
        option = f"loss.aggregation={aggregation}"
        dropped, metrics = gradient(mixed, option)
        kept, all_metrics = gradient(mixed, option, "train.drop_zero_advantage=false")
        assert_same(kept, dropped)
        assert (metrics["dropped"], all_metrics["dropped"]) == (4, 0)
        assert metrics["loss"] == pytest.approx(all_metrics["loss"], abs=1e-7)
        assert metrics["tokens"] == all_metrics["tokens"]
    with_entropy, metrics = gradient(mixed, "loss.entropy=0.01")
    without, _ = gradient(mixed, "loss.entropy=0.01", "train.drop_zero_advantage=false")
    assert metrics["dropped"] == 0, "an entropy bonus gives every token a gradient"
    assert_same(with_entropy, without)
    nothing, metrics = gradient(silent)
    assert (metrics["dropped"], metrics["loss"], metrics["grad_norm"]) == (7, 0, 0)
    assert not any(value.any() for value in nothing.values())
    assert "entropy" not in metrics, "no token was seen"


def test_a_kl_in_the_reward_is_none_in_the_loss() -> None:
    sequences = make_sequences(1)
    plain, _ = gradient(sequences)
    reward, metrics = gradient(sequences, "loss.kl=0.5", "loss.kl_in=reward")
    assert_same(plain, reward)
    assert metrics["kl"] == 0, "the policy is still the reference"


def test_a_critic_learns_its_returns() -> None:
    """Values start at 0 and approach the returns; the policy's own weights stay as they are."""
    config = make_config(
        "loss.kl=0", "critic.lr=0.01", "critic.value_clip=0", "optimizer.grad_clip=1"
    )
    learner = make_learner(config)
    critic = Critic(ValueModel(learner.module), config, total_updates=30)
    sequences = [
        TrainSequence(
            sequence.token_ids,
            sequence.weights,
            returns=[0.5 * weight for weight in sequence.weights],
        )
        for sequence in make_sequences(2)
    ]
    before = [value.clone() for value in learner.module.parameters()]
    assert not any(any(row) for row in critic.values(sequences))
    losses = [critic.update_values(sequences)["value_loss"] for _ in range(20)]
    assert losses[0] == pytest.approx(0.125)
    assert losses[-1] < 0.02
    for sequence, row in zip(sequences, critic.values(sequences), strict=True):
        for weight, value in zip(sequence.weights, row, strict=True):
            assert value == pytest.approx(0.5, abs=0.3) if weight else value == 0
    for old, new in zip(before, learner.module.parameters(), strict=True):
        assert torch.equal(old, new)
    assert max(token for sequence in sequences for token in sequence.token_ids) < VOCABULARY
