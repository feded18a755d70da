"""`tspo plan`: what a training run will need, estimated from its configuration before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, Settings, Sources
from tspo_cli.errors import GateError, UsageError


def plan(
    sources: Sources,
    settings: Settings = None,
    gpus: Annotated[
        int, typer.Option(min=0, help="GPUs, one process each. 0: train.processes on the CPU.")
    ] = 0,
    gpu_memory: Annotated[
        float, typer.Option(min=0, help="GiB of one GPU; exit code 6 where the estimate is more.")
    ] = 0,
    rates: Annotated[
        Path | None, typer.Option(help="A run on the same machine whose step times are scaled.")
    ] = None,
    rollout_tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="Mean tokens of a rollout, prompt and passages included. 0: the most possible.",
        ),
    ] = 0,
    tflops: Annotated[
        float, typer.Option(min=1, help="Peak of one GPU, 10^12 operations a second in bfloat16.")
    ] = 989,
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the peak that training reaches.")
    ] = 0.35,
    as_json: Json = False,
) -> None:
    """Estimate memory, tokens, time and disk of a training run before it starts.

    No weights are loaded.

    Memory is the peak of one training process: on a CPU its resident size, mapped libraries
    included, on GPUs what it holds there. Sequences count as long as the longest demonstration, or
    the longest prompt with the limits of turns and observations, and as if all of them trained; the
    limits alone count where data or tokenizer are not on this machine. Time is scaled from
    --rates RUN, or, with --gpus, the learner's part at --tflops and --mfu.
    """
    from tspo_cli.config.load_config import load_config
    from tspo_cli.training.planning.estimate import (
        estimate_run,
        fitting_settings,
        measured_seconds,
        step_seconds,
    )
    from tspo_cli.training.problems import refuse_problems
    from tspo_cli.training.sft.epochs import with_steps_of_epochs
    from tspo_cli.training.start.longest import longest_sequence

    config = load_config(sources, settings or ())
    refuse_problems(config)
    config = with_steps_of_epochs(config)
    if rollout_tokens and (rates is not None or not gpus):
        raise UsageError(
            "--rollout-tokens counts for the time of --gpus alone; give --gpus N without --rates, "
            "or leave it out"
        )
    estimate = estimate_run(config, gpus, longest_sequence(config))
    if rates is not None:
        estimate |= {
            "seconds_per_step": measured_seconds(rates, config),
            "seconds_from": str(rates),
        }
    elif gpus:
        tokens = rollout_tokens or estimate["context_tokens"]
        seconds = step_seconds(estimate, tokens, tflops, mfu, config.train.gradient_checkpointing)
        estimate |= {
            "seconds_per_step": seconds,
            "seconds_from": f"learner alone, {tflops:g} TFLOPS at {mfu:.0%}",
        }
    needed = estimate["memory_per_process_gib"]["total"]
    short = bool(gpu_memory) and needed > gpu_memory
    if short:
        estimate["would_fit_with"] = fitting_settings(
            config, gpus, gpu_memory, estimate["context_tokens"]
        )
    if as_json:
        console.result_json(estimate)
    else:
        console.result(_text(estimate))
    if short:
        cure = (
            " ".join(f"--set {setting}" for setting in estimate["would_fit_with"])
            or "more GPUs or a smaller model"
        )
        raise GateError(
            f"about {needed:.1f} GiB for one process, more than --gpu-memory {gpu_memory:g}; it "
            f"would fit with {cure}"
        )


def _text(estimate: dict[str, Any]) -> str:
    memory, on_disk = estimate["memory_per_process_gib"], estimate["disk_gib"]
    size = estimate["parameters"]
    trained = estimate["trained_parameters"]
    part = f", {trained / 1e6:,.2f} M of them trained adapters" if trained != size else ""
    lines = [
        f"{estimate['kind']}, {estimate['model']}: {size / 1e6:,.2f} M parameters{part}, "
        f"{estimate['precision']}",
        f"{estimate['processes']} process(es), ZeRO stage {estimate['zero_stage']}",
        "",
        "memory of one process at its peak, GiB (estimated)",
        *(f"  {name.replace('_', ' '):<16}{value:>10.3f}" for name, value in memory.items()),
        "",
        f"tokens: at most {estimate['context_tokens']:,} a sequence "
        f"({estimate['context_from']}), "
        f"{estimate['sequences_per_step']:,} sequences and "
        f"{estimate['tokens_per_step']:,} tokens a step, of which "
        f"{estimate['sampled_tokens_per_step']:,} are sampled; "
        f"{estimate['updates_per_step']} update(s) a step, {estimate['steps']:,} steps",
        *_time(estimate),
        f"disk, GiB (estimated): {on_disk['checkpoint']:.3f} a checkpoint, "
        f"{on_disk['checkpoints']:.3f} for those kept "
        f"and the one being written, {on_disk['model']:.3f} for the exported model; rollouts and "
        "logs come on top",
    ]
    return "\n".join(lines)


def _time(estimate: dict[str, Any]) -> list[str]:
    if "seconds_per_step" not in estimate:
        return [
            "time: not estimated; --rates RUN scales it from the steps of a run on this machine, "
            "and --gpus N computes the learner's part"
        ]
    seconds = estimate["seconds_per_step"]
    hours = seconds * estimate["steps"] / 3600
    return [
        f"time: {seconds:,.1f} s a step, {hours:,.2f} h for all steps ({estimate['seconds_from']})"
    ]
