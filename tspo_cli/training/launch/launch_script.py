"""Commands that start a run on several GPUs and nodes, for common launchers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tspo_cli.config.sources import run_name

Launcher = Literal["torchrun", "deepspeed", "slurm"]
PORT = 29500


def launch_script(
    launcher: Launcher,
    files: Sequence[str],
    settings: Sequence[str],
    out: Path | None,
    *,
    resume: bool,
    nodes: int,
    gpus: int,
) -> str:
    """A shell script that starts `tspo train` once per GPU; each process joins the group that the
    launcher describes.

    The checkout, the run directory and the model must be on a file system that all nodes share.
    """
    run = out or Path("runs") / run_name(files[-1])
    words = [
        "train",
        *files,
        *(word for setting in settings for word in ("--set", setting)),
        "--out",
        str(run),
    ]
    command = shlex.join([*words, *(["--resume"] if resume else [])])
    return {"torchrun": _torchrun, "deepspeed": _deepspeed, "slurm": _slurm}[launcher](
        command, run, nodes, gpus
    )


def _torchrun(command: str, run: Path, nodes: int, gpus: int) -> str:
    if nodes == 1:
        return f"torchrun --standalone --nproc-per-node {gpus} -m tspo_cli {command}"
    return (
        f"# Run it on every node, with NODE from 0 to {nodes - 1} and HEAD the address of node 0.\n"
        f'torchrun --nnodes {nodes} --nproc-per-node {gpus} --node-rank "$NODE" --master-addr '
        '"$HEAD" '
        f"--master-port {PORT} -m tspo_cli {command}"
    )


def _deepspeed(command: str, run: Path, nodes: int, gpus: int) -> str:
    if nodes == 1:
        return f"deepspeed --num_gpus {gpus} --module tspo_cli {command}"
    hosts = "\n".join(f"# node{number} slots={gpus}" for number in range(nodes))
    return (
        "# hostfile: one line per node that is reachable by ssh without a password\n"
        f"{hosts}\n"
        f"deepspeed --hostfile hostfile --num_nodes {nodes} --num_gpus {gpus} --master_port {PORT} "
        "--module tspo_cli "
        f"{command}"
    )


def _slurm(command: str, run: Path, nodes: int, gpus: int) -> str:
    return f"""#!/bin/bash
#SBATCH --job-name={run.name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --output={run}.%j.log
# To continue a job that was stopped: tspo train ... --print-launch slurm --resume
set -euo pipefail
source .venv/bin/activate
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c 'torchrun --nnodes {nodes} --nproc-per-node {gpus} --node-rank "$SLURM_NODEID" \\
  --master-addr '"$HEAD"' --master-port {PORT} -m tspo_cli '{shlex.quote(command)}"""
