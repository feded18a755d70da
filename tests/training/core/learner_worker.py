"""Run by tests in one or two processes: `main` in a forked one, or `python learner_worker.py JOB
OUT`, with RANK and WORLD_SIZE set.
"""

from __future__ import annotations

import errno
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.errors import TspoError
from tspo_cli.models.lora import add_lora
from tspo_cli.models.tiny import tiny_model
from tspo_cli.training.core.checkpoints import checkpoint
from tspo_cli.training.core.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from tspo_cli.training.core.critic import Critic, ValueModel
from tspo_cli.training.core.distributed import (
    gather_json,
    init_distributed,
    leave,
    rank,
    world_size,
)
from tspo_cli.training.core.engine_weights import whole_weights
from tspo_cli.training.core.export import export_adapter, exported_model
from tspo_cli.training.core.optimizer_state import full_state
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence

VOCABULARY = 60


def make_config(*settings: str) -> Config:
    base = (
        "kind=rl",
        "optimizer.lr=0.001",
        "optimizer.eps=1e-4",
        "train.tokens_per_micro_batch=64",
        "loss.kl=0.05",
        "optimizer.grad_clip=0.5",
    )
    return load_config([], [*base, *settings])


def make_learner(config: Config, seed: int = 0) -> PolicyLearner:
    model = tiny_model(VOCABULARY, config.model, seed)
    if config.lora.rank:
        add_lora(model, config.lora, config.seed)
    return PolicyLearner(model, config, total_updates=8)


def make_sequences(seed: int, count: int = 7) -> list[TrainSequence]:
    """Ragged sequences with made-up sampling log-probs and advantages."""
    rng = random.Random(seed)
    sequences = []
    for _ in range(count):
        length = rng.randint(5, 30)
        weights = [0.0] + [float(rng.random() < 0.6) for _ in range(length - 1)]
        sequences.append(
            TrainSequence(
                token_ids=[rng.randrange(VOCABULARY) for _ in range(length)],
                weights=weights,
                advantages=[rng.gauss(0, 1) * weight for weight in weights],
                old_logprobs=[-4.0 - rng.random() if weight else 0.0 for weight in weights],
            )
        )
    return sequences


def with_values(sequences: list[TrainSequence]) -> list[TrainSequence]:
    """The same sequences with made-up returns and old values for a critic."""
    return [
        replace(
            sequence,
            returns=[advantage + 0.5 for advantage in sequence.advantages],
            old_values=[0.1 * logprob for logprob in sequence.old_logprobs],
        )
        for sequence in sequences
    ]


def mine(sequences: list[TrainSequence]) -> list[TrainSequence]:
    return sequences[rank() :: world_size()]


def digest(learner: PolicyLearner) -> float:
    weights = whole_weights(learner.core)
    return float(sum(value.detach().double().abs().sum() for value in weights.values()))


def stages(out: Path) -> dict[str, Any]:
    """Three updates of every kind at every ZeRO stage."""
    found: dict[str, Any] = {}
    for stage in range(4):
        for aggregation in ("token_mean", "sequence_mean"):
            config = make_config(
                f"deepspeed.zero_stage={stage}",
                f"loss.aggregation={aggregation}",
                "loss.embedding_noise=5",
            )
            learner = make_learner(config)
            rows = [learner.update_policy(mine(make_sequences(seed))) for seed in range(3)]
            rows.append(learner.update_sft(mine(make_sequences(3))))
            scores = learner.logprobs(mine(make_sequences(4)))
            total = sum(sum(row) for row in scores)
            found[f"{stage} {aggregation}"] = {
                "rows": rows,
                "logprobs": total,
                "weights": digest(learner),
            }
        with exported_model(learner.core, out / f"model_{world_size()}_{stage}", Tokenizer()):
            pass
    return found


def adapters(out: Path) -> dict[str, Any]:
    """Two updates of adapters and a checkpoint between them, at every ZeRO stage; model and
    adapters exported.
    """
    found: dict[str, Any] = {}
    for stage in range(4):
        config = make_config(f"deepspeed.zero_stage={stage}", "lora.rank=4", "lora.alpha=8")
        learner = make_learner(config)
        rows = [learner.update_policy(mine(make_sequences(0)))]
        folder = out / f"adapters_{world_size()}_{stage}"
        save_checkpoint(learner.core, folder / "checkpoint", {})
        learner = make_learner(config, seed=0)
        load_checkpoint(learner.core, folder / "checkpoint")
        rows.append(learner.update_policy(mine(make_sequences(1))))
        found[str(stage)] = {"rows": rows, "weights": digest(learner)}
        with exported_model(learner.core, folder / "model", Tokenizer()):
            pass
        export_adapter(learner.core, folder / "adapter")
    return found


def uneven(out: Path) -> dict[str, Any]:
    """One process has the long sequences and the other the short ones: metrics, log-probs, and
    passes of the model.
    """
    found: dict[str, Any] = {}
    long = [
        sequence
        for seed in range(20, 24)
        for sequence in make_sequences(seed)
        if len(sequence.token_ids) > 18
    ]
    short = [
        sequence
        for seed in range(20, 24)
        for sequence in make_sequences(seed)
        if len(sequence.token_ids) <= 18
    ]
    own = long + short if world_size() == 1 else (long, short)[rank()]
    for balanced in ("true", "false"):
        for stage in (0, 3):
            config = make_config(f"train.balance_ranks={balanced}", f"deepspeed.zero_stage={stage}")
            learner = make_learner(config)
            passes: list[int] = []
            learner.core.engine.module.register_forward_hook(
                lambda *_, passes=passes: passes.append(1)
            )
            rows = [learner.update_policy(own), learner.update_sft(own)]
            count = len(passes)
            scores = learner.logprobs(own)
            critic = Critic(
                ValueModel(tiny_model(VOCABULARY, config.model, 0)), config, total_updates=8
            )
            rows += [critic.update_values(with_values(own)) for _ in range(2)]
            sums = gather_json([[len(row), sum(row)] for row in scores])
            found[f"{balanced} {stage}"] = {
                "rows": rows,
                "passes": count,
                "logprobs": [row for part in sums for row in part],
            }
    return found


def straight(out: Path) -> dict[str, Any]:
    """Six updates in a row, at stages 0 and 2."""
    return {str(stage): _updates(stage, range(6), None, None) for stage in (0, 2, 3)}


def first_half(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        str(stage): _updates(stage, range(3), None, out / f"half_{stage}") for stage in (0, 2, 3)
    }
    return found | {"failed": _failing_save(out / "half_0")}


def _failing_save(folder: Path) -> list[str]:
    """What every process says when the second one cannot write its part."""
    if world_size() == 1:
        return []

    def write_tensors(path: Path, tensors: dict[str, Any]) -> None:
        if rank() == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        original(path, tensors)

    original, checkpoint.write_tensors = checkpoint.write_tensors, write_tensors
    learner, said = make_learner(make_config()), "nothing"
    try:
        save_checkpoint(learner.core, folder, {"step": 4})
    except (OSError, TspoError) as error:
        said = f"{type(error).__name__}: {error}"
    checkpoint.write_tensors = original
    return gather_json(said)


def second_half(out: Path) -> dict[str, Any]:
    return {
        str(stage): _updates(stage, range(3, 6), out / f"half_{stage}", None) for stage in (0, 2, 3)
    }


def _updates(stage: int, seeds: range, load: Path | None, save: Path | None) -> dict[str, Any]:
    learner = make_learner(make_config(f"deepspeed.zero_stage={stage}"))
    if load is not None:
        assert load_checkpoint(learner.core, load) == {"step": 3}
    rows = [learner.update_policy(mine(make_sequences(seed))) for seed in seeds]
    if save is not None:
        save_checkpoint(learner.core, save, {"step": 3})
        core, keep = learner.core, rank() == 0
        whole = full_state(core.engine, core.module, keep=keep, has_moments=True)
        if keep:
            save_file(whole, save.with_name(f"whole_{save.name}.safetensors"))
    return {"rows": rows, "weights": digest(learner)}


class Tokenizer:
    """Stands for a tokenizer where only the weights matter."""

    def save_pretrained(self, path: Path) -> None:
        (path / "tokenizer.json").write_text("{}")


def main(name: str, out: str) -> None:
    """Do a job in this process, which ends with it; what it found is in OUT/NAME_PROCESSES.json."""
    torch.set_num_threads(1)
    init_distributed()
    jobs = {
        job.__name__: job for job in (stages, adapters, uneven, straight, first_half, second_half)
    }
    found = jobs[name](Path(out))
    if rank() == 0:
        Path(out, f"{name}_{world_size()}.json").write_text(json.dumps(found))
    leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
