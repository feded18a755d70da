"""`tspo plan`: what a training run will need, estimated from its configuration before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, Settings, Sources
from tspo_cli.console import agreeing, counted
from tspo_cli.errors import UsageError

TFLOPS, MFU = 989.0, 0.35


def plan(
    sources: Sources,
    settings: Settings = None,
    gpus: Annotated[
        int,
        typer.Option(
            min=0,
            help="GPUs that train, of all nodes together, one process each; those of servers do "
            "not count. 0: train.processes on the CPU.",
        ),
    ] = 0,
    gpu_memory: Annotated[
        float,
        typer.Option(
            min=0,
            max=1e6,
            help="GiB of one GPU, with --gpus; exit code 6 where more is needed. 0: no limit.",
        ),
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
        float,
        typer.Option(
            min=1, max=1e6, help="Peak of one GPU, 10^12 operations a second in bfloat16."
        ),
    ] = TFLOPS,
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the peak that training reaches.")
    ] = MFU,
    as_json: Json = False,
) -> None:
    """Estimate memory, tokens, time and disk of a training run before it starts.

    No weights are loaded.

    Memory is the peak of one training process: on a CPU its resident size, mapped libraries
    included, on GPUs what it holds there. Sequences count as long as the longest demonstration, or
    the longest prompt with the limits of turns and observations, and as if all of them trained; the
    limits alone count where data or tokenizer are not on this machine. --gpu-memory is the
    nominal size: a program gets 98.75 % of it. Time is scaled from --rates RUN; or with --gpus the
    learner's part at --tflops and --mfu; or, for models of more than 50 million parameters on a
    CPU, computed from the rate of its matrix products.
    """
    from tspo_cli.config.load_config import load_config
    from tspo_cli.training.planning.run_plan import Hardware, plan_run
    from tspo_cli.training.problems import refuse_problems
    from tspo_cli.training.sft.epochs import with_steps_of_epochs
    from tspo_cli.training.start.longest import longest_sequence

    if not gpus and (gpu_memory or (tflops, mfu) != (TFLOPS, MFU)):
        raise UsageError(
            "--gpu-memory, --tflops and --mfu are those of --gpus N, which is not given: the plan "
            "is for a CPU"
        )
    config = load_config(sources, settings or ())
    refuse_problems(config, gpu=gpus > 0)
    config = with_steps_of_epochs(config)
    hardware = Hardware(gpus, gpu_memory, tflops, mfu)
    planned = plan_run(config, hardware, longest_sequence(config), rates, rollout_tokens)
    servers = planned.servers
    if as_json:
        each = {name: memory.as_dict() for name, memory in servers.items()}
        console.result_json(planned.estimate | ({"servers": each} if each else {}))
    else:
        console.result(_text(planned.estimate))
        for name, memory in servers.items():
            console.result(f"{name} server, beside it (estimated): {memory.in_words()}")
    for memory in servers.values():
        if memory.remark:
            console.warn(memory.remark)
    if problem := planned.problem():
        raise problem


def _text(estimate: dict[str, Any]) -> str:
    memory, on_disk = estimate["memory_per_process_gib"], estimate["disk_gib"]
    size = estimate["parameters"]
    trained = estimate["trained_parameters"]
    part = f", {trained / 1e6:,.2f} M of them trained" if trained < size else ""
    lines = [
        f"{estimate['kind']}, {estimate['model']}: {size / 1e6:,.2f} M parameters{part}, "
        f"{estimate['precision']}",
        f"{counted(estimate['processes'], 'process', 'es')}, ZeRO stage {estimate['zero_stage']}",
        "",
        f"memory of one process at its peak{_phase(estimate)}, GiB (estimated)",
        *(f"  {name.replace('_', ' '):<16}{value:>10.3f}" for name, value in memory.items()),
        *_other_memory(estimate),
        "",
        f"tokens: at most {estimate['context_tokens']:,} a sequence "
        f"({estimate['context_from']}), "
        f"{counted(estimate['sequences_per_step'], 'sequence')} and "
        f"{counted(estimate['tokens_per_step'], 'token')} a step, of which "
        f"{agreeing(estimate['sampled_tokens_per_step'], 'is', 'are')} sampled; "
        f"{counted(estimate['updates_per_step'], 'update')} a step, "
        f"{counted(estimate['steps'], 'step')}",
        *_time(estimate),
        f"disk, GiB (estimated): {on_disk['checkpoint']:.3f} a checkpoint, "
        f"{on_disk['checkpoints']:.3f} for those kept "
        f"and the one being written, {on_disk['model']:.3f} for the exported model; rollouts and "
        "logs come on top",
        *[estimate[key] for key in ("weights_to_servers",) if key in estimate],
    ]
    return "\n".join(lines)


def _phase(estimate: dict[str, Any]) -> str:
    several = len(estimate["phases_gib"]) > 1
    return f" ({estimate['peak_phase'].replace('_', '-')})" if several else ""


def _other_memory(estimate: dict[str, Any]) -> list[str]:
    """Whether it fits, the other phases, and CPU memory beside that of a GPU."""
    lines = []
    needed, offered = estimate["memory_per_process_gib"]["total"], estimate.get("gpu_offers_gib")
    if offered and needed <= offered and not estimate["engine_problem"]:
        lines.append(f"it fits: {needed:.1f} of the {offered:.1f} GiB that a program gets")
    if len(estimate["phases_gib"]) > 1:
        totals = estimate["phases_gib"].items()
        phases = ", ".join(f"{name.replace('_', '-')} {gib:.1f}" for name, gib in totals)
        lines.append(f"phases of a step, GiB: {phases}")
    if host := estimate["host_memory_per_process_gib"]:
        parts = ", ".join(f"{name.replace('_', ' ')} {gib:.1f}" for name, gib in host.items())
        lines.append(f"CPU memory of each process beside it, GiB: {parts}")
    return lines


def _time(estimate: dict[str, Any]) -> list[str]:
    if "seconds_per_step" not in estimate:
        return [
            "time: not estimated; --rates RUN scales it from the steps of a run on this machine, "
            "and --gpus N computes the learner's part"
        ]
    seconds = estimate["seconds_per_step"]
    whole = seconds * estimate["steps"]
    unit, size = ("h", 3600) if whole >= 7200 else ("min", 60) if whole >= 120 else ("s", 1)
    return [
        f"time: {_amount(seconds)} s a step, {_amount(whole / size)} {unit} for all steps "
        f"({estimate['seconds_from']})"
    ]


def _amount(value: float) -> str:
    """With two digits at least: `0.013`, `2.6`, `486`."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
