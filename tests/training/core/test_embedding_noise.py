"""NEFTune's noise: of the size that the paper says, in updates by imitation alone, and the same
however the work is divided, packed or resumed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.core.learner_worker import make_config, make_learner, make_sequences
from tspo_cli.training.core.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence

ALPHA = 20.0
NOISE = ("kind=sft", "loss.kl=0", f"loss.embedding_noise={ALPHA}")


@pytest.fixture(scope="module", autouse=True)
def process_group() -> None:
    init_distributed()


def learner(*settings: str) -> PolicyLearner:
    return make_learner(make_config(*NOISE, *settings))


def loss_by_hand(model: Any, sequences: list[TrainSequence], seeds: list[int]) -> float:
    """Each sequence by itself, with noise that is added to what the embedding gives."""
    embed = model.get_input_embeddings()
    longest, size = max(len(sequence.token_ids) for sequence in sequences), embed.embedding_dim
    drawn = np.random.default_rng(seeds).random((longest, size), np.float32)
    noise = (2 * torch.from_numpy(drawn) - 1) * ALPHA / math.sqrt(longest * size)
    total = weight = 0.0
    for sequence in sequences:
        ids = torch.tensor([sequence.token_ids])
        with torch.no_grad():
            logits = model(inputs_embeds=embed(ids) + noise[: ids.shape[1]]).logits[0]
        scores = logits[:-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        weights = torch.tensor(sequence.weights[1:])
        total -= float((scores * weights).sum())
        weight += float(weights.sum())
    return total / weight


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.packing=false",),
        ("train.share_prefixes=always",),
        ("train.gradient_checkpointing=true",),
        ("deepspeed.zero_stage=3",),
        ("kind=rejection_sampling",),
        ("lora.rank=4", "lora.alpha=8"),
        ("train.tokens_per_micro_batch=4096",),
    ],
)
def test_an_update_has_the_noise_of_the_paper(settings: tuple[str, ...]) -> None:
    sequences = make_sequences(0)
    sequences[1].token_ids[:4] = sequences[0].token_ids[:4]
    expected = loss_by_hand(make_learner(make_config(*NOISE)).module, sequences, [0, 0])
    without = make_learner(make_config("kind=sft", "loss.kl=0")).update_sft(sequences)["loss"]
    found = learner(*settings).update_sft(sequences)["loss"]
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(found - without) > 1e-3


def test_every_update_and_seed_draws_other_noise() -> None:
    sequences = make_sequences(0)
    still = "optimizer.lr=1e-12"
    one, other = learner(still), learner(still, "seed=1")
    losses = [one.update_sft(sequences)["loss"] for _ in range(2)]
    assert losses[0] != pytest.approx(losses[1], abs=1e-5)
    assert other.update_sft(sequences)["loss"] != pytest.approx(losses[0], abs=1e-5)
    assert learner(still).update_sft(sequences)["loss"] == losses[0]


def test_nothing_but_the_update_has_noise() -> None:
    sequences = make_sequences(0)
    noisy, plain = learner(), make_learner(make_config("kind=sft", "loss.kl=0"))
    noisy.update_sft([sequences[0]])
    plain.core.engine.module.load_state_dict(noisy.core.engine.module.state_dict())
    assert noisy.logprobs(sequences) == plain.logprobs(sequences)
    rl = make_learner(make_config(f"loss.embedding_noise={ALPHA}"))
    usual = make_learner(make_config())
    assert rl.update_policy(sequences) == usual.update_policy(sequences)


def test_a_resumed_training_goes_on_with_the_same_noise(tmp_path: Path) -> None:
    whole = learner()
    whole.update_sft(make_sequences(0))
    save_checkpoint(whole.core, tmp_path / "checkpoint", {})
    resumed = learner()
    load_checkpoint(resumed.core, tmp_path / "checkpoint")
    assert resumed.update_sft(make_sequences(1)) == whole.update_sft(make_sequences(1))
