"""What `tspo train --dry-run` finds: data, model, limits, disk, and everything to be warned of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.cpu_threads import refuse_too_many
from tspo_cli.models.chat_template import stop_ids, template_notes
from tspo_cli.models.checks.length_limits import positions
from tspo_cli.models.eos import eos_ids
from tspo_cli.models.lora import add_lora
from tspo_cli.packages import require_packages
from tspo_cli.rollout.engines.vllm_engine.vllm_open import refuse_impossible_transfer
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.deepspeed_setup import deepspeed_config
from tspo_cli.training.planning.memory import GIB, written_gib
from tspo_cli.training.policy import starting_policy
from tspo_cli.training.rl.background import refuse_unsafe_background
from tspo_cli.training.rl.question_batches import fitting_questions
from tspo_cli.training.rl.scoring import needs_critic
from tspo_cli.training.sft.demonstration_check import lengths_in_words, measure
from tspo_cli.training.sft.sft_step import demonstration_source
from tspo_cli.training.start.inputs import TrainingInputs, data_in_words, open_inputs
from tspo_cli.training.start.model_check import check_model
from tspo_cli.training.start.start_warnings import (
    start_warnings,
    trained_parameters,
)


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would work with, in lines, and what its user should be warned of."""

    lines: list[str]
    warnings: list[str]


def dry_run(config: Config, run: Path, evaluation: dict[str, int]) -> DryRun:
    """Open everything that a run of `config` into the directory `run` needs. Nothing is written.

    `evaluation` has the number of questions of each evaluated data set.

    Raises:
        InvalidInputError, MissingResourceError, RemoteServiceError: as training itself.
    """
    require_packages(config)
    refuse_too_many("train.processes", config.train.processes, "a model")
    refuse_unsafe_background(config)
    refuse_impossible_transfer(config)
    deepspeed_config(config, bfloat16=config.model.dtype == "bfloat16")
    inputs = open_inputs(config)
    if config.kind == "sft":
        demonstration_source(config, inputs.retriever, inputs.demonstrations)
    tokenizer, model = starting_policy(config, "cpu")
    check_model(model, tokenizer, config)
    total = sum(weight.numel() for weight in model.parameters())
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if config.lora.rank:
        add_lora(model, config.lora, config.seed)
    eos = eos_ids(model.config, model.generation_config, tokenizer)
    stop_ids(tokenizer, config.rollout)
    protocol = SearchProtocol.from_config(tokenizer, config.rollout)
    prompts: list[str] = []
    if config.kind != "sft":
        kept, lengths = fitting_questions(inputs.questions, protocol, config)
        inputs, prompts = replace(inputs, questions=kept), [lengths]
    trained = trained_parameters(model)
    part = f" ({trained:,} of them trained)" if trained != total else ""
    names = ", ".join(f"{name} ({count})" for name, count in evaluation.items())
    sets = f"evaluation on {names}" if names else "no evaluation during training"
    lines = [
        f"ready: {data_in_words(config, inputs)}, a policy of {counted(total, 'parameter')}{part}, "
        f"{sets}; nothing was written",
        *prompts,
        *template_notes(tokenizer, config.rollout, eos),
        *_lengths(config, inputs, protocol, positions(model)),
        _disk(config, trained, size, run),
    ]
    return DryRun(lines, start_warnings(config, inputs, protocol, model))


def _lengths(
    config: Config, inputs: TrainingInputs, protocol: SearchProtocol, made_for: int
) -> Iterator[str]:
    rollout = config.rollout
    takes = f"; the model takes {made_for:,}" if made_for else ""
    if inputs.demonstrations:
        lengths = measure(inputs.demonstrations, protocol, rollout)
        yield f"demonstrations: at most {lengths['demonstration'].longest:,} tokens{takes}"
        yield from lengths_in_words(lengths)
    yield (
        f"limits: a prompt of {counted(rollout.max_prompt_tokens, 'token')}, "
        f"{counted(rollout.max_searches + 1, 'turn')} of {rollout.max_new_tokens:,}, "
        f"{counted(rollout.max_searches, 'observation')} of {rollout.max_observation_tokens:,} "
        f"({counted(config.retriever.k, 'passage')}): {counted(context_length(config), 'token')} a "
        f"rollout{takes}"
    )


def _disk(config: Config, trained: int, model_bytes: int, run: Path) -> str:
    """In GiB, as `tspo plan` counts."""
    gib = written_gib(config, trained, model_bytes, critic=needs_critic(config))
    parts = []
    if gib["checkpoints"]:
        count = round(gib["checkpoints"] / gib["checkpoint"])
        each = gib["checkpoint"]
        parts.append(f"{count} checkpoint{'s' if count > 1 else ''} of {each:.2f}")
    if gib["model"]:
        parts.append(f"a model of {gib['model']:.2f}")
    folder = next(parent for parent in [run, *run.absolute().parents] if parent.is_dir())
    needed = gib["checkpoints"] + gib["model"]
    return (
        f"disk: {needed:.2f} GiB ({' and '.join(parts) or 'neither checkpoints nor model'}; "
        "rollouts and logs come on top), "
        f"{shutil.disk_usage(folder).free / GIB:.0f} GiB free"
    )
