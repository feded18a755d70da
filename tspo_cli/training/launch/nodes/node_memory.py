"""Memory of the nodes of a launch: its training processes and its servers together, in GiB."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.errors import MissingResourceError
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import transfer_in_words
from tspo_cli.training.launch.nodes.cluster_plan import ClusterPlan, Server
from tspo_cli.training.planning.memory import GIB, PlannedRun
from tspo_cli.training.planning.model_shape import model_shape
from tspo_cli.training.planning.phases import process_phases
from tspo_cli.training.planning.server_memory import (
    ServerMemory,
    engine_server_memory,
    index_in_processes,
    retriever_memory,
)

TRAINER_GIB = 3.0
"""CPU memory of a training process on a GPU beside what it offloads: libraries, data (stated)."""
FILE_VERSIONS = 2
"""Versions of the weights that lie in memory while servers read them as files."""


@dataclass(slots=True)
class NodeMemory:
    """GiB of one node.

    cpu: by what holds it.
    gpus: of one GPU, by number.
    unknown: what is not counted, and why.
    """

    host: str
    cpu: dict[str, float] = field(default_factory=dict)
    gpus: dict[int, float] = field(default_factory=dict)
    users: dict[int, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "host": self.host,
            "cpu_gib": {**self.cpu, "total": sum(self.cpu.values())},
            "gpu_gib": {str(gpu): gib for gpu, gib in sorted(self.gpus.items())},
            "not_counted": self.unknown,
        }

    def in_words(self) -> str:
        """One line."""
        parts = ", ".join(f"{name} {gib:.1f}" for name, gib in self.cpu.items())
        said = [f"CPU {sum(self.cpu.values()):.1f} ({parts})"] if parts else []
        for user in dict.fromkeys(self.users.values()):
            own = [gpu for gpu, name in sorted(self.users.items()) if name == user]
            numbers = ", ".join(map(str, own))
            said.append(f"GPU{'s' * (len(own) > 1)} {numbers}: {self.gpus[own[0]]:.1f} ({user})")
        said += [f"not counted: {reason}" for reason in dict.fromkeys(self.unknown)]
        return f"memory of {self.host}, GiB (estimated): {'; '.join(said)}"


def node_memories(
    config: Config, plan: ClusterPlan, gpu_gib: float = 0.0
) -> tuple[list[NodeMemory], list[str], list[str]]:
    """Of every node that has something to do; remarks; and problems, with which a server cannot
    start. `gpu_gib` is what a program gets of one GPU (0: not known).

    Raises:
        InvalidInputError: the index is none, or cannot be searched as retriever.search says.
    """
    nodes = [NodeMemory(host) for host in plan.nodes.hosts]
    remarks: list[str] = []
    problems: list[str] = []
    run = _planned(config, plan, gpu_gib, nodes)
    servers: dict[str, ServerMemory] = {}
    for server in plan.servers:
        kind, node = server.name.partition("_")[0], nodes[server.node]
        if kind not in servers:
            servers[kind] = _of(kind, config, run, server, gpu_gib)
        memory = servers[kind]
        node.unknown += [memory.unknown] if memory.unknown else []
        remarks += [memory.remark] if memory.remark else []
        problems += [memory.problem] if memory.problem else []
        node.cpu |= {server.name: sum(memory.cpu.values())} if memory.cpu else {}
        for gpu in server.gpus if memory.gpu else ():
            node.gpus[gpu], node.users[gpu] = sum(memory.gpu.values()), server.name
    return nodes, [*dict.fromkeys(remarks)], [*dict.fromkeys(problems)]


def too_much(nodes: list[NodeMemory], gpu_gib: float, node_gib: float) -> list[str]:
    """What does not fit into `gpu_gib` of a GPU and `node_gib` of a node; 0: no limit."""
    found = []
    for node in nodes:
        total = sum(node.cpu.values())
        if node_gib and total > node_gib:
            found.append(
                f"{node.host}: about {total:.1f} GiB of CPU memory, more than the {node_gib:g} GiB "
                "of --node-memory; give servers a node of their own, offload less, or keep the "
                "vectors of a flat index on GPUs (retriever.search.backend)"
            )
        for gpu, gib in sorted(node.gpus.items()):
            if gpu_gib and gib > gpu_gib:
                found.append(
                    f"{node.host}, GPU {gpu}: about {gib:.1f} GiB for {node.users[gpu]}, more than "
                    f"the {gpu_gib:.1f} GiB that one offers; `tspo plan` names settings that help"
                )
                break
    return found


def _planned(
    config: Config, plan: ClusterPlan, gpu_gib: float, nodes: list[NodeMemory]
) -> PlannedRun | MissingResourceError:
    """The run, whose training processes are counted on their nodes, or why it is not known."""
    clients = plan.training_nodes * plan.processes
    try:
        shape = model_shape(config)
    except MissingResourceError as error:
        for node in nodes[: plan.training_nodes]:
            node.unknown.append(str(error))
        return error
    on_gpus = plan.nodes.gpus > 0
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"processes": clients})}
    )
    run = PlannedRun(
        config, shape, clients if on_gpus else 0, context_length(config), gpu_gib=gpu_gib
    )
    index, index_gpu = index_in_processes(config, plan.processes, gpus=on_gpus)
    phases = process_phases(run)
    each = TRAINER_GIB + sum(phases.host.values()) if on_gpus else phases.peak
    for node in nodes[: plan.training_nodes]:
        name = counted(plan.processes, "training process", "es")
        node.cpu[name] = plan.processes * each
        node.cpu |= index
        for gpu in plan.gpus[: plan.processes] if on_gpus else ():
            node.gpus[gpu] = phases.peak + index_gpu
            node.users[gpu] = "training and index" if index_gpu else "training"
        goes_as_files = "as files" in transfer_in_words(config, gpu=on_gpus).partition(" or ")[0]
        if goes_as_files and len(plan.nodes.hosts) == 1:
            node.cpu["weights as files"] = (
                FILE_VERSIONS * run.parameters * run.bytes_per_number / GIB
            )
    return run


def _of(
    kind: str,
    config: Config,
    run: PlannedRun | MissingResourceError,
    server: Server,
    gpu_gib: float,
) -> ServerMemory:
    if kind == "retriever":
        return retriever_memory(config, len(server.gpus), gpu_gib)
    if isinstance(run, MissingResourceError):
        return ServerMemory(unknown=str(run))
    sequences = int(server.arguments[server.arguments.index("--sequences") + 1])
    return engine_server_memory(run, len(server.gpus), sequences)
