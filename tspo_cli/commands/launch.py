"""`tspo launch`: a run with its servers, on this machine or on each node of a cluster."""

from __future__ import annotations

import random
import re
import shlex
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspo_cli.commands.options import Json, OverwriteRun, ResumeRun, RunOut, Settings, Sources
from tspo_cli.console import agreeing, counted, result, result_json, warn
from tspo_cli.errors import GateError, MissingResourceError, UsageError
from tspo_cli.variables import number_in

if TYPE_CHECKING:
    from tspo_cli.config.schema import Config
    from tspo_cli.training.launch.nodes.cluster_plan import ClusterPlan

_LOCAL = "127.0.0.1"
_PORTS = range(20000, 32000)
_LAST_PORT = 65535
_HOST = re.compile(r"[A-Za-z0-9_]([\w.-]*\w)?", re.ASCII)
_JOB = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}", re.ASCII)
"""Names of launches: they are part of a file's name."""


def launch(
    files: Sources,
    settings: Settings = None,
    out: RunOut = None,
    resume: ResumeRun = False,
    overwrite: OverwriteRun = False,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs of a node. Default: those of this machine.")
    ] = None,
    hosts: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Addresses of all nodes. Default: this machine."),
    ] = _LOCAL,
    node: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of this machine in --hosts, from 0. Default: SLURM_NODEID, or 0.",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=60000, help="First port to use; the same on all nodes. 0: free ones."
        ),
    ] = 0,
    job: Annotated[
        str, typer.Option(help="Name of this launch, if it has several nodes; the same on all.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run on each node, start nothing.")
    ] = False,
    gpu_memory: Annotated[
        float,
        typer.Option(
            min=0,
            max=1e6,
            help="GiB of one GPU, with --dry-run; exit code 6 where more is needed. 0: no limit.",
        ),
    ] = 0,
    node_memory: Annotated[
        float,
        typer.Option(min=0, max=1e6, help="The same for the CPU memory of a node."),
    ] = 0,
    json: Json = False,
) -> None:
    """Train with the retriever and the vLLM servers that [launch] asks for.

    Starts the servers of this node, waits for those of all nodes, trains as `tspo train` does, and
    stops them at the end. Signals go to the training, and its exit code is that of this command.
    The servers' logs are in RUN/launch/. On several nodes, run it on each: `tspo train
    --print-launch slurm` prints a job that does.
    """
    from tspo_cli.config.load_config import load_config
    from tspo_cli.config.sources import run_name
    from tspo_cli.training.launch.nodes.cluster import Job, run_node
    from tspo_cli.training.launch.nodes.cluster_plan import (
        Nodes,
        environment,
        launch_tokens,
        plan_cluster,
        python_of,
    )
    from tspo_cli.training.problems import refuse_problems

    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if (gpu_memory or node_memory) and not dry_run:
        raise UsageError("--gpu-memory and --node-memory are limits of --dry-run, which is missing")
    names = tuple(name.strip() for name in hosts.split(",") if name.strip())
    wrong = next((name for name in names if not _HOST.fullmatch(name)), None)
    if wrong is not None or not names:
        raise UsageError(
            f"--hosts {shlex.quote(wrong or hosts)}: expected names or IPv4 addresses of all "
            "nodes, such as node01,node02"
        )
    place = _place(node, len(names))
    if len(names) > 1 and not (port and job) and not dry_run:
        raise UsageError("--hosts: several nodes need --port and --job, the same on all of them")
    if job and not _JOB.fullmatch(job):
        raise UsageError(
            f"--job {shlex.quote(job)}: expected up to 100 letters, digits, dots, dashes and "
            "underscores, such as 4711.0"
        )
    settings = settings or []
    config = load_config(files, settings)
    count = _gpus_here() if gpus is None else gpus
    plan = plan_cluster(config, Nodes(names, count, port or _free_ports(config.launch.engines + 2)))
    refuse_problems(load_config(files, [*settings, *plan.settings]), gpu=count > 0)
    if plan.nodes.port + len(plan.servers) > _LAST_PORT:
        raise UsageError(
            f"--port {plan.nodes.port}: "
            f"{agreeing(len(plan.servers), 'server needs the port', 'servers need the ports')} "
            f"after it, up to {_LAST_PORT}; give a smaller one"
        )
    if dry_run:
        _show(config, plan, gpu_memory, node_memory, json)
        return
    _check_gpus(count)
    run = out or Path("runs") / run_name(files[-1])
    words = ["train", *files, *(word for one in settings for word in ("--set", one))]
    words += ["--out", str(run), *(["--resume"] if resume else [])]
    words += ["--overwrite"] if overwrite else []
    words += ["--json"] if json else []
    code = run_node(
        Job(
            plan,
            place,
            job or "here",
            run,
            tuple(words),
            python_of(environment(config)),
            launch_tokens(config, plan),
            config.launch.wait,
        )
    )
    raise typer.Exit(code)


def _place(node: int | None, nodes: int) -> int:
    """The number of this machine. One node needs none, and heeds no variable of a job around it.

    Raises:
        UsageError: there are not so many nodes, or SLURM_NODEID is no number.
    """
    if nodes == 1:
        return 0
    place = number_in("SLURM_NODEID", 0) if node is None else node
    if not place < nodes:
        name = "SLURM_NODEID" if node is None else "--node"
        raise UsageError(f"{name} {place}: --hosts names {nodes}")
    return place


def _show(
    config: Config, plan: ClusterPlan, gpu_memory: float, node_memory: float, json: bool
) -> None:
    """Print what runs where, and the memory of each node.

    Raises:
        GateError: more than the limits, or a server cannot start with its memory.
    """
    from tspo_cli.training.launch.nodes.node_memory import node_memories, too_much
    from tspo_cli.training.planning.phases import CARD_SHARE

    offered = gpu_memory * CARD_SHARE
    nodes, remarks, problems = node_memories(config, plan, offered)
    training = {
        "nodes": plan.training_nodes,
        "processes": plan.processes,
        "gpus": list(plan.gpus),
        "settings": list(plan.settings),
    }
    servers = [
        {
            "name": server.name,
            "host": plan.nodes.hosts[server.node],
            "gpus": list(server.gpus),
            "command": shlex.join(["tspo", *server.arguments]),
        }
        for server in plan.servers
    ]
    if json:
        memory = [node.as_dict() for node in nodes]
        result_json({"servers": servers, "training": training, "memory": memory})
    else:
        for server in plan.servers:
            command = shlex.join(["tspo", *server.arguments])
            host = plan.nodes.hosts[server.node]
            result(f"{server.name} on {host}, {_where(server.gpus)}: {command}")
        sets = f"; sets {' '.join(plan.settings)}" if plan.settings else ""
        result(
            f"training on {counted(plan.training_nodes, 'node')} with "
            f"{counted(plan.processes, 'process', 'es')} each, {_where(plan.gpus)}{sets}"
        )
        for node in nodes:
            result(node.in_words())
    for remark in remarks:
        warn(remark)
    problems += too_much(nodes, offered, node_memory)
    if problems:
        raise GateError(problems[0])


def _where(gpus: tuple[int, ...]) -> str:
    numbers = ", ".join(map(str, gpus))
    return f"GPU{'s' if len(gpus) > 1 else ''} {numbers}" if gpus else "on the CPU"


def _gpus_here() -> int:
    """GPUs that this process may use, without loading torch."""
    from tspo_cli.training.launch.nodes.cluster_plan import visible_gpus

    visible = visible_gpus()
    if visible is not None:
        return len(visible)
    return len([*Path("/proc/driver/nvidia/gpus").glob("*")])


def _check_gpus(gpus: int) -> None:
    """Raises MissingResourceError where CUDA_VISIBLE_DEVICES hides some of them."""
    from tspo_cli.training.launch.nodes.cluster_plan import visible_gpus

    visible = visible_gpus()
    if visible is not None and len(visible) < gpus:
        raise MissingResourceError(
            f"--gpus {gpus}: CUDA_VISIBLE_DEVICES shows {len(visible)} here; give --gpus "
            f"{len(visible)}, or change the variable"
        )


def _free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that are free now.

    They lie below those that the system gives to connections: a server binds its port seconds
    later, and until then nothing else takes it by chance.
    """
    for _ in range(100):
        port = random.randrange(_PORTS.start, _PORTS.stop - count)
        with ExitStack() as bound:
            try:
                for number in range(port, port + count):
                    bound.enter_context(socket.socket()).bind((_LOCAL, number))
            except OSError:
                continue
            return port
    raise UsageError("no free ports next to each other; name some with --port")
