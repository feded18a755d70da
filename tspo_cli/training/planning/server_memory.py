"""Memory of the servers that a launch starts, in GiB: from the files of the index and the shape of
the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.console import counted
from tspo_cli.errors import MissingResourceError
from tspo_cli.retrieval.manifest import read_manifest, vector_files
from tspo_cli.retrieval.search_settings import IndexSettings, built_settings, for_search
from tspo_cli.retrieval.types import POSTINGS
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import CPU_KV_CACHE_GIB
from tspo_cli.training.planning.engine_memory import cuda_graphs, kv_cache_bytes, workspace
from tspo_cli.training.planning.memory import GIB, RUNTIME_GIB, PlannedRun
from tspo_cli.training.planning.model_shape import local_file

# Of a server without and with an encoder (torch and its libraries), and of vLLM's processes (2.8
# measured on a CPU, with 0.3 of weights and 0.5 of cache in it).
SERVER_GIB, ENCODER_SERVER_GIB, VLLM_GIB = 0.1, 1.0, 4.0
# What encoding a batch of 16,384 tokens takes, what a torch search has of scores, and the context
# of a process on a GPU (stated).
ENCODER_BATCH_GIB, SCORES_GIB, CONTEXT_GIB = 1.0, 1.0, 0.6
VOCABULARY = 10
"""Bytes in memory for each of a vocabulary's JSON: a word of 8 letters takes 190 beside 20."""
VLLM_SHARE = 0.9
"""Of a GPU: what `tspo engine` takes where vllm.kv_cache_gib is 0."""

_SHARED = ("vectors", "postings")
"""Mapped from files, of which several processes need one copy."""


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """GiB of one server by part.

    cpu: of its node. Files that every search reads count: where they are not in memory, a search
        waits for the disk.
    gpu: of each of its GPUs.
    remark: what the user would want to know, empty for nothing.
    problem: why it cannot start, empty where it can.
    unknown: why nothing is counted, empty where something is.
    """

    cpu: dict[str, float] = field(default_factory=dict)
    gpu: dict[str, float] = field(default_factory=dict)
    remark: str = ""
    problem: str = ""
    unknown: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        if self.unknown:
            return {"not_counted": self.unknown}
        return {
            "cpu_gib": {**self.cpu, "total": sum(self.cpu.values())},
            "gpu_gib": {**self.gpu, "total": sum(self.gpu.values())} if self.gpu else {},
        }

    def in_words(self) -> str:
        """Both sums with their parts."""
        if self.unknown:
            return f"not counted: {self.unknown}"
        sums = [
            f"{sum(parts.values()):.1f} GiB of {where} ("
            + ", ".join(f"{name.replace('_', ' ')} {gib:.1f}" for name, gib in parts.items())
            + ")"
            for where, parts in (("each of its GPUs", self.gpu), ("CPU memory", self.cpu))
            if parts
        ]
        return ", ".join(sums)


def retriever_memory(config: Config, gpus: int, gpu_gib: float = 0.0) -> ServerMemory:
    """Of a server of retriever.index that has `gpus` GPUs with `gpu_gib` each (0: not known).
    Nothing is known of an index that is not on this machine.

    Raises:
        InvalidInputError: it is no index, or cannot be searched as retriever.search says.
    """
    path = Path(config.retriever.index)
    try:
        manifest = read_manifest(path)
    except MissingResourceError as error:
        return ServerMemory(unknown=str(error))
    kind = manifest["kind"]
    built = built_settings(kind, manifest["parameters"])
    settings = for_search(built, kind, config.retriever.search.given())
    sizes = {name: facts["bytes"] / GIB for name, facts in manifest["files"].items()}
    dense, uses_gpu = settings.dense, gpus > 0 and _encodes_on_gpu(settings)
    cpu = {"runtime": SERVER_GIB if dense is None else ENCODER_SERVER_GIB}
    gpu = {"runtime": CONTEXT_GIB} if uses_gpu else {}
    if settings.bm25 is not None:
        cpu["postings"] = sum(sizes[f"{name}.csc.index.npy"] for name in POSTINGS)
        cpu["vocabulary"] = VOCABULARY * sizes["vocab.index.json"]
    remark = ""
    if dense is not None:
        there = gpu if uses_gpu else cpu
        there["encoder"] = _weights(manifest["encoder"]) + ENCODER_BATCH_GIB
        pieces, _ = vector_files(path, manifest)
        on_gpu = uses_gpu and dense.backend == "torch"
        (gpu if on_gpu else cpu).update(_vectors(pieces, dense, gpus if on_gpu else 0))
        if uses_gpu and not on_gpu:
            remark = (
                "launch.retriever_gpus: the encoder alone uses them; retriever.search.backend = "
                '"torch" searches a flat index there too'
            )
    if settings.rerank.reranker:
        (gpu if uses_gpu else cpu)["reranker"] = _weights(settings.rerank.reranker)
    if gpus and not uses_gpu:
        remark = f"launch.retriever_gpus: nothing of this {kind} index runs on a GPU"
    total, problem = sum(gpu.values()), ""
    if gpu_gib and total > gpu_gib:
        problem = (
            f"the retriever needs about {total:.1f} GiB of each of its GPUs, more than the "
            f"{gpu_gib:.1f} GiB that one offers; give it more of them (launch.retriever_gpus), or "
            "set retriever.search.first_pass to float16 or int8"
        )
    return ServerMemory(cpu, gpu, remark, problem)


def index_in_processes(
    config: Config, processes: int, *, gpus: bool
) -> tuple[dict[str, float], float]:
    """GiB of an index that each training process of a node opens itself: of CPU memory, and of each
    GPU. Processes share the files of an index, but nothing on GPUs, where each has all vectors.

    Raises: as `retriever_memory`.
    """
    if not config.retriever.index or config.launch.retriever != "none" or config.kind == "sft":
        return {}, 0.0
    memory = retriever_memory(config, processes if gpus else 0)
    if memory.unknown:
        return {}, 0.0
    shared = sum(memory.cpu.get(name, 0.0) for name in _SHARED)
    own = sum(memory.cpu.values()) - shared - memory.cpu["runtime"]
    on_gpu = processes * sum(memory.gpu.get(name, 0.0) for name in ("vectors", "scores"))
    return {"index": shared + processes * own}, on_gpu + memory.gpu.get("encoder", 0.0)


def engine_server_memory(run: PlannedRun, gpus: int, sequences: int) -> ServerMemory:
    """Of a vLLM server on `gpus` GPUs (0: on the CPU) that decodes `sequences` requests at once.

    `run.gpu_gib` is what a program gets of a GPU (0: not known).
    """
    share, vllm = max(1, gpus), run.config.vllm
    tokens = context_length(run.config)
    needed = kv_cache_bytes(run.shape, tokens, 1, run.bytes_per_number) / share / GIB
    held = {"weights": (run.parameters + run.adapters) * run.bytes_per_number / share / GIB}
    if gpus:
        held = {"runtime": RUNTIME_GIB["gpu"], **held}
        held |= {"cuda_graphs": cuda_graphs(run), "workspace": workspace(run, sequences)}
        rest = VLLM_SHARE * run.gpu_gib - sum(held.values()) if run.gpu_gib else needed
        held["kv_cache"] = vllm.kv_cache_gib or max(0.0, rest)
        cpu = {"runtime": VLLM_GIB}
    else:
        held["kv_cache"] = vllm.kv_cache_gib or CPU_KV_CACHE_GIB
        cpu = {"runtime": VLLM_GIB, **held}
    total, problem = sum(held.values()), ""
    if run.shape.heads % share:
        problem = (
            f"launch.engine_gpus: a vLLM server on {share} GPUs shares out "
            f"{counted(run.shape.heads, 'attention head')}, which that number has to divide; set "
            "launch.engines higher"
        )
    elif held["kv_cache"] < needed:
        problem = (
            f"vllm.kv_cache_gib: a vLLM server has {held['kv_cache']:.1f} GiB for its cache, less "
            f"than one sequence of {tokens:,} tokens, which takes {needed:.2f} GiB"
        )
    elif gpus and run.gpu_gib and total > run.gpu_gib:
        problem = (
            f"a vLLM server needs about {total:.1f} GiB of each of its GPUs, more than the "
            f"{run.gpu_gib:.1f} GiB that one offers; lower vllm.kv_cache_gib (0: what is left), or "
            "give each engine more of launch.engine_gpus"
        )
    return ServerMemory(cpu, held if gpus else {}, problem=problem)


def launched_servers(run: PlannedRun) -> dict[str, ServerMemory]:
    """The retriever and one vLLM server of [launch]. Where the GPUs of a node are not known
    (launch.engine_nodes without engine_gpus), a vLLM server has one.

    Raises:
        InvalidInputError: as `retriever_memory`.
    """
    config, launch = run.config, run.config.launch
    servers = {}
    if launch.retriever != "none" and config.retriever.index:
        gpus = len(launch.retriever_gpus) if run.gpus else 0
        servers["retriever"] = retriever_memory(config, gpus, run.gpu_gib)
    if launch.engines and config.rollout.engine == "vllm":
        gpus = max(1, len(launch.engine_gpus) // launch.engines) if run.gpus else 0
        servers_of_all = launch.engines * max(1, launch.engine_nodes)
        slots = max(config.rollout.batch_size, config.eval.batch_size)
        sequences = slots * math.ceil(run.processes / servers_of_all)
        servers["engine"] = engine_server_memory(run, gpus, sequences)
    return servers


def _encodes_on_gpu(settings: IndexSettings) -> bool:
    dense = settings.dense
    return dense is not None and dense.encoder_backend == "torch" and dense.device != "cpu"


def _vectors(pieces: list[Path], settings: DenseSettings, gpus: int) -> dict[str, float]:
    """What searches read: all rows of a flat index, in the numbers of its first pass, or the file
    of another one. The full vectors of a few candidates come from the disk.
    """
    from tspo_cli.retrieval.dense.faiss_files import FlatRows, is_flat

    size = sum(piece.stat().st_size for piece in pieces) / GIB
    if settings.backend != "torch" or not is_flat(pieces[0]):
        return {"vectors": size}
    flat = FlatRows(pieces)
    bytes_each = {"float32": 4, "float16": 2, "int8": 1}[settings.first_pass]
    scale = 4 if settings.first_pass == "int8" else 0
    resident = flat.ntotal * (flat.d * bytes_each + scale) / max(1, gpus) / GIB
    if gpus:
        return {"vectors": resident, "scores": SCORES_GIB}
    return {"vectors": resident if settings.first_pass == "int8" else size}


def _weights(name: str) -> float:
    """GiB of the weights of an encoder or reranker, 0 where it is not on this machine."""
    config = local_file(name, "config.json")
    if config is None:
        return 0.0
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        found = sum(file.stat().st_size for file in config.parent.glob(pattern))
        if found:
            return found / GIB
    return 0.0
