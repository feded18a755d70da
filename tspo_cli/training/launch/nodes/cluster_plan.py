"""Which servers and training processes run on which node and GPUs, from the experiment alone."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.packages import is_installed
from tspo_cli.text.access_token import ENGINE_TOKEN, RETRIEVER_TOKEN, read_token

VLLM_ENVIRONMENT = Path(".venv-vllm")
"""Where `make vllm` installs vLLM."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines of a launch.

    hosts: their addresses, first node first.
    gpus: GPUs of each; 0: none.
    port: the first of the ports to use. The group of training processes meets there; every server
        has one of the ports after it.
    """

    hosts: tuple[str, ...]
    gpus: int
    port: int


@dataclass(frozen=True, slots=True)
class Server:
    """A server on one node: the arguments of its `tspo` command, and where it says it is ready."""

    name: str
    node: int
    arguments: tuple[str, ...]
    gpus: tuple[int, ...]
    url: str
    ready: str


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """All servers of a launch, and the training processes of each node that trains.

    settings: what the servers change in the experiment, as `a.b=c`.
    processes: training processes of one node.
    gpus: the GPUs of these processes, by number.
    """

    nodes: Nodes
    servers: tuple[Server, ...]
    settings: tuple[str, ...]
    training_nodes: int
    processes: int
    gpus: tuple[int, ...]

    def servers_of(self, node: int) -> list[Server]:
        """The servers that run on `node`."""
        return [server for server in self.servers if server.node == node]


def plan_cluster(config: Config, nodes: Nodes) -> ClusterPlan:
    """Place servers and processes.

    Raises:
        InvalidInputError: [launch] asks for what the nodes do not have, or contradicts the rest.
    """
    problem = next(_problems(config, nodes), None)
    if problem:
        raise InvalidInputError(problem)
    launch = config.launch
    training_nodes = len(nodes.hosts) - launch.engine_nodes
    engine_gpus = _engine_gpus(config, nodes)
    shared = {*launch.retriever_gpus} | ({*engine_gpus} if not launch.engine_nodes else set())
    gpus = tuple(gpu for gpu in range(nodes.gpus) if gpu not in shared)
    processes = launch.processes or (len(gpus) if nodes.gpus else config.train.processes)
    if nodes.gpus and not 0 < processes <= len(gpus):
        raise InvalidInputError(
            f"launch.processes: a node has {counted(len(gpus), 'GPU')} for training beside its "
            f"servers, expected at least {max(processes, 1)}"
        )
    servers = [*_retrievers(config, nodes, training_nodes)]
    clients = training_nodes * processes
    servers += _engines(config, nodes, training_nodes, clients, engine_gpus, len(servers))
    return ClusterPlan(
        nodes, tuple(servers), tuple(_settings(config, servers)), training_nodes, processes, gpus
    )


def environment(config: Config) -> Path:
    """The virtual environment of all processes of a launch: launch.environment, or that of this
    process, or `VLLM_ENVIRONMENT` where vLLM is needed and missing here.
    """
    if config.launch.environment:
        return Path(config.launch.environment)
    needs_vllm = config.launch.engines or (
        config.rollout.engine == "vllm" and not config.vllm.url and config.kind != "sft"
    )
    return VLLM_ENVIRONMENT if needs_vllm and not is_installed("vllm") else Path(sys.prefix)


def visible_gpus() -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES shows to this process; None where it is not set. CUDA
    reads it up to the first name that is none, such as -1.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return None
    names = [name.strip() for name in named.split(",")]
    return [*takewhile(lambda name: name.isdecimal() or name.startswith(("GPU-", "MIG-")), names)]


def python_of(folder: Path) -> str:
    """The Python of an environment.

    Raises:
        MissingResourceError: there is none.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        raise MissingResourceError(
            f"{folder}: not an environment (it has no bin/python); `make vllm` makes the one with "
            "vLLM (docs/vllm.md), launch.environment names another"
        )
    return str(python.absolute())


def launch_tokens(config: Config, plan: ClusterPlan) -> dict[str, str]:
    """The token of each kind of server that the plan starts, by environment variable: the user's,
    or one that is made for this launch.

    Raises:
        UsageError: nodes would make different ones.
    """
    files = {"retriever": config.retriever.token_file, "engine": config.vllm.token_file}
    variables = {"retriever": RETRIEVER_TOKEN, "engine": ENGINE_TOKEN}
    tokens: dict[str, str] = {}
    for kind in sorted({server.name.partition("_")[0] for server in plan.servers}):
        token = read_token(variables[kind], files[kind])
        if not token and len(plan.nodes.hosts) > 1:
            raise UsageError(
                f"{variables[kind]} is not set: give the same token of 16 or more characters to "
                "the launch on every node, in this variable"
            )
        tokens[variables[kind]] = token or secrets.token_hex(24)
    return tokens


def _problems(config: Config, nodes: Nodes) -> Iterator[str]:
    launch, training_nodes = config.launch, len(nodes.hosts) - config.launch.engine_nodes
    named = [*launch.retriever_gpus, *launch.engine_gpus]
    wrong = [gpu for gpu in named if not 0 <= gpu < nodes.gpus]
    if wrong:
        yield (
            f"launch: GPU {wrong[0]} is named, but a node has {counted(nodes.gpus, 'GPU')}; --gpus "
            "says how many it has"
        )
    # Nodes of engines have no retriever.
    together = [launch.retriever_gpus, launch.engine_gpus] if launch.engine_nodes else [named]
    if any(len(set(gpus)) != len(gpus) for gpus in together):
        yield "launch.engine_gpus: a GPU has two servers; name each GPU once"
    if training_nodes < 1:
        yield (
            f"launch.engine_nodes: {launch.engine_nodes} of {counted(len(nodes.hosts), 'node')}; "
            "at least one node has to train"
        )
    if launch.engine_nodes and not launch.engines:
        yield "launch.engine_nodes: these nodes have no engine; set launch.engines"
    if launch.retriever != "none" and not config.retriever.index:
        yield "launch.retriever: serves retriever.index, which is not set"
    if launch.retriever == "none" and launch.retriever_gpus:
        yield "launch.retriever_gpus: no retriever is launched; set launch.retriever"
    if not launch.engines:
        return
    if config.rollout.engine != "vllm":
        yield 'launch.engines: vLLM servers need rollout.engine = "vllm"'
    if config.vllm.url:
        yield "launch.engines: servers are launched and named in vllm.url; remove one of the two"
    gpus = len(_engine_gpus(config, nodes))
    if nodes.gpus and (gpus == 0 or gpus % launch.engines):
        yield (
            f"launch.engine_gpus: {counted(gpus, 'GPU')} for {counted(launch.engines, 'engine')}; "
            "name the same number of GPUs for each engine"
        )


def _engine_gpus(config: Config, nodes: Nodes) -> list[int]:
    everything = [*range(nodes.gpus)] if config.launch.engine_nodes else []
    return config.launch.engine_gpus or everything


def _retrievers(config: Config, nodes: Nodes, training_nodes: int) -> Iterator[Server]:
    count = {"none": 0, "first": 1, "each": training_nodes}[config.launch.retriever]
    search = config.retriever.search.given()
    for node in range(count):
        port = nodes.port + 1 + node
        arguments = ["serve", config.retriever.index, *_address(nodes, node, port)]
        for name, value in search.items():
            shown = value if isinstance(value, str) else json.dumps(value)
            arguments += ["--set", f"{name}={shown}"]
        url = f"http://{nodes.hosts[node]}:{port}"
        gpus = tuple(config.launch.retriever_gpus)
        yield Server(f"retriever_{node}", node, tuple(arguments), gpus, url, url + "/readyz")


def _engines(
    config: Config,
    nodes: Nodes,
    training_nodes: int,
    clients: int,
    gpus: Sequence[int],
    taken: int,
) -> Iterator[Server]:
    launch, everyone = config.launch, range(len(nodes.hosts))
    places = [
        (node, engine)
        for node in (everyone[training_nodes:] if launch.engine_nodes else everyone)
        for engine in range(launch.engines)
    ]
    share = len(gpus) // launch.engines if launch.engines else 0
    for number, (node, engine) in enumerate(places):
        port, own = nodes.port + 1 + taken + number, gpus[engine * share : (engine + 1) * share]
        slots = max(config.rollout.batch_size, config.eval.batch_size)
        arguments = ["engine", config.model.path, *_address(nodes, node, port)]
        dtype = config.model.dtype
        if dtype == "auto":  # as the learner's: vLLM's own auto would halve a float32 model
            dtype = "bfloat16" if nodes.gpus else "float32"
        arguments += ["--context", str(context_length(config)), "--dtype", dtype]
        arguments += ["--sequences", str(slots * -(-clients // len(places)))]
        arguments += ["--tensor-parallel", str(max(1, share))]
        if config.vllm.kv_cache_gib:
            arguments += ["--kv-cache-gib", f"{config.vllm.kv_cache_gib:g}"]
        arguments += ["--eager"] if config.vllm.eager else []
        wish = config.vllm.transfer
        arguments += [] if wish == "auto" else ["--transfer", wish]
        arguments += ["--float32-head"] if config.model.float32_head else []
        if config.lora.as_adapters(bfloat16=dtype == "bfloat16"):
            arguments += ["--lora-rank", str(config.lora.rank)]
            targets = [name for name in config.lora.targets if name != "all-linear"]
            arguments += [word for name in targets for word in ("--lora-target", name)]
        arguments += ["--", "--revision", config.model.revision] if config.model.revision else []
        url = f"http://{nodes.hosts[node]}:{port}"
        yield Server(f"engine_{number}", node, tuple(arguments), tuple(own), url, url + "/health")


def _address(nodes: Nodes, node: int, port: int) -> list[str]:
    """Where a server listens: for this machine alone where the launch has one, else for all that
    have the token.
    """
    host = nodes.hosts[node]
    local = len(nodes.hosts) == 1 or host.startswith("127.")
    return ["--host", host if local else "0.0.0.0", "--port", str(port)]


def _settings(config: Config, servers: Sequence[Server]) -> Iterator[str]:
    retrievers = [server.url for server in servers if server.name.startswith("retriever")]
    if retrievers:
        yield "retriever.index="
        yield f"retriever.url={json.dumps(retrievers)}"
        for name, value in config.retriever.search.given().items():
            yield f"retriever.search.{name}={json.dumps(type(value)())}"
    engines = [server.url for server in servers if server.name.startswith("engine")]
    if engines:
        yield f"vllm.url={json.dumps(engines)}"
