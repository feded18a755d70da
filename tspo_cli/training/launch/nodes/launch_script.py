"""Commands that start a run on several GPUs and nodes, for common launchers."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.config.sources import run_name
from tspo_cli.config.urls import is_this_machine, shown_url
from tspo_cli.errors import UsageError
from tspo_cli.text.access_token import ENGINE_TOKEN, RETRIEVER_TOKEN
from tspo_cli.training.launch.nodes.cluster_plan import Nodes, environment, plan_cluster
from tspo_cli.training.problems import refuse_problems

Launcher = Literal["torchrun", "deepspeed", "slurm"]
PORT = 29500
_SAFE = "PYTHONSAFEPATH=1"
"""`python -m` begins to look for modules in the working directory, where anything may lie. `tspo`
does not, and DeepSpeed hands the variable on to other nodes.
"""
NO_PYTHON = (
    "$ENVIRONMENT has no bin/python here; 'make vllm' makes .venv-vllm in the checkout (for GPUs "
    "see docs/vllm.md), and launch.environment names another environment"
)


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
    """A shell script that starts the training processes of a run on every node, and with Slurm, or
    where [launch] asks for servers, those too.

    The checkout, the run directory, the environment and the model must be on a file system that all
    nodes share.

    Raises:
        InvalidInputError: the experiment cannot train, or [launch] asks for what the nodes lack.
        UsageError: DeepSpeed's launcher starts no servers.
    """
    config = load_config(files, settings)
    # Addresses are known when the job starts; here they only have to differ.
    plan = plan_cluster(config, Nodes(tuple(f"node{n}" for n in range(nodes)), gpus, PORT))
    refuse_problems(load_config(files, [*settings, *plan.settings]), gpu=gpus > 0)
    run = out or Path("runs") / run_name(files[-1])
    words = [
        *files,
        *(word for setting in settings for word in ("--set", setting)),
        "--out",
        str(run),
    ]
    if launcher == "slurm":
        return _slurm(shlex.join([*words, "--resume"]), run, nodes, gpus, environment(config))
    command = shlex.join([*words, *(["--resume"] if resume else [])])
    if launcher == "deepspeed":
        if plan.servers:
            raise UsageError(
                "--print-launch deepspeed: starts no servers, but [launch] asks for some; use "
                "slurm or torchrun"
            )
        return _deepspeed(f"train {command}", nodes, plan.processes)
    if plan.servers:
        return _nodes_with_servers(command, nodes, gpus)
    return _torchrun(f"train {command}", nodes, plan.processes)


def servers_of_the_node(config: Config, launcher: Launcher, nodes: int) -> list[str]:
    """One line for each key whose server would have to run on each node itself, where the script
    starts none: 127.0.0.1 is another machine in a job than where it is written down.
    """
    if launcher != "slurm" and nodes == 1:
        return []
    told = []
    retriever = config.retriever
    named = [] if retriever.index or config.launch.retriever != "none" else retriever.url
    if local := next(filter(is_this_machine, named), None):
        told.append(_of_the_node("retriever.url", local, "launch.retriever with retriever.index"))
    named = config.vllm.url if config.rollout.engine == "vllm" else []
    if local := next(filter(is_this_machine, named), None):
        told.append(_of_the_node("vllm.url", local, "launch.engines in its place"))
    return told


def _of_the_node(key: str, url: str, instead: str) -> str:
    return (
        f"{key}: {shown_url(url)} is the node itself, and the script starts no server there; name "
        f"the node of the server, or set {instead} (docs/clusters.md)"
    )


def _torchrun(command: str, nodes: int, processes: int) -> str:
    if nodes == 1:
        return f"{_SAFE} torchrun --standalone --nproc-per-node {processes} -m tspo_cli {command}"
    return (
        f"# Run it on every node, with NODE from 0 to {nodes - 1} and HEAD the address of node 0.\n"
        f'{_SAFE} torchrun --nnodes {nodes} --nproc-per-node {processes} --node-rank "$NODE" '
        "--master-addr "
        '"$HEAD" '
        f"--master-port {PORT} -m tspo_cli {command}"
    )


def _nodes_with_servers(command: str, nodes: int, gpus: int) -> str:
    """torchrun starts no servers. `tspo launch` starts the processes that torchrun would, too."""
    if nodes == 1:
        return f"tspo launch {command} --gpus {gpus}"
    return f"""\
# Run it on every node, with NODE from 0 to {nodes - 1}, HOSTS the addresses of all nodes (a,b,...),
# and the same secrets of 16 or more characters in {RETRIEVER_TOKEN} and {ENGINE_TOKEN}.
tspo launch {command} --gpus {gpus} \\
  --hosts "$HOSTS" --node "$NODE" --port {PORT} --job "${{JOB:-1}}\""""


def _deepspeed(command: str, nodes: int, processes: int) -> str:
    if nodes == 1:
        return f"{_SAFE} deepspeed --num_gpus {processes} --module tspo_cli {command}"
    hosts = "\n".join(f"# node{number} slots={processes}" for number in range(nodes))
    return (
        "# hostfile: one line per node that is reachable by ssh without a password\n"
        f"{hosts}\n"
        f"{_SAFE} deepspeed --hostfile hostfile --num_nodes {nodes} --num_gpus {processes} "
        f"--master_port {PORT} --module tspo_cli {command}"
    )


def _job_name(run: Path) -> str:
    """The run's name, without what #SBATCH lines end words at, or put something else for."""
    return re.sub(r"[^\w.-]", "_", Path(os.path.abspath(run)).name) or "tspo"


def _slurm(command: str, run: Path, nodes: int, gpus: int, folder: Path) -> str:
    """A batch script: one `tspo launch` on each node. Two minutes before the time is over, or when
    the job is preempted, the run writes a checkpoint and the job is queued again.
    """
    gpu_line = f"#SBATCH --gpus-per-node={gpus}\n" if gpus else ""
    name = _job_name(run)
    return f"""\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{gpu_line}#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output={name}.%j.log
# Add what your cluster asks for: --partition, --account, --time. Submit it where paths of the
# experiment begin. A job that is queued again goes on from the run's newest checkpoint.
# sbatch --signal=B:USR1@600 leaves a large model more time for its last checkpoint.
set -uo pipefail
ENVIRONMENT={shlex.quote(str(folder))}
[ -x "$ENVIRONMENT/bin/python" ] || {{ echo "error: {NO_PYTHON}" >&2; exit 4; }}
export PATH="$(realpath "$ENVIRONMENT")/bin:$PATH" {_SAFE}
# The servers' tokens: made for this job, in the environment alone.
secret() {{ od -An -N24 -tx1 /dev/urandom | tr -d ' \\n'; }}
export {RETRIEVER_TOKEN}="${{{RETRIEVER_TOKEN}:-$(secret)}}"
export {ENGINE_TOKEN}="${{{ENGINE_TOKEN}:-$(secret)}}"
HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd, -)
ATTEMPT=${{SLURM_RESTART_COUNT:-0}}
PORT=$((10000 + (SLURM_JOB_ID * 16 + ATTEMPT) % 20000))
srun --kill-on-bad-exit=1 --cpu-bind=none python -m tspo_cli launch {command} \\
  --gpus {gpus} --hosts "$HOSTS" --port "$PORT" --job "$SLURM_JOB_ID.$ATTEMPT" &
STEP=$!
STOPPED=
trap 'STOPPED=1; kill -USR1 "$STEP"' USR1
trap 'kill -TERM "$STEP"' TERM
while wait "$STEP"; [ $? -gt 128 ] && kill -0 "$STEP" 2>/dev/null; do :; done
wait "$STEP"
CODE=$?
[ -z "$STOPPED" ] || [ $CODE -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"
exit $CODE"""
