"""`tspo engine`: a vLLM server that training runs use through vllm.url."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import typer

from tspo_cli.console import say
from tspo_cli.errors import MissingResourceError


def engine(
    model: Annotated[
        str, typer.Argument(help="Model directory or hub name that training starts from.")
    ],
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Anyone who reaches it can change its weights."),
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8100,
    context: Annotated[int, typer.Option(min=1, help="Longest prompt + turns in tokens.")] = 4096,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Type of the weights.")
    ] = "auto",
    sequences: Annotated[
        int, typer.Option(min=1, help="Most requests that are decoded at once.")
    ] = 256,
    memory: Annotated[
        float, typer.Option(min=0, max=1, help="GPU: share of memory for weights and KV cache.")
    ] = 0.9,
    kv_cache_gib: Annotated[
        float, typer.Option(min=0, help="Size of the KV cache. 0: what memory leaves; CPU 1.")
    ] = 0,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="GPUs that one copy of the model is divided over.")
    ] = 1,
    eager: Annotated[
        bool, typer.Option("--eager", help="No CUDA graphs: starts sooner, runs slower.")
    ] = False,
    more: Annotated[
        list[str] | None, typer.Argument(help="After --: further arguments of vLLM's server.")
    ] = None,
) -> None:
    """Serve a policy to training runs with vLLM, and take new weights from them.

    A run finds it with --set rollout.engine=vllm --set 'vllm.url=["http://127.0.0.1:8100"]'. Needs
    vLLM in this environment (extra gpu, or `make vllm` for a CPU). Use it in trusted networks only.
    """
    from tspo_cli.rollout.engines.vllm_engine.vllm_messages import (
        LOGPROBS_MODE,
        WORKER_EXTENSION,
        cpu_options,
    )

    if find_spec("vllm") is None:
        raise MissingResourceError(
            "vLLM is not installed in this environment; install the extra gpu, or `make vllm`"
        )
    cpu = not _has_gpu()
    if cpu and not kv_cache_gib:
        kv_cache_gib = 1
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += [
        "--host",
        host,
        "--port",
        str(port),
        "--dtype",
        dtype,
        "--max-model-len",
        str(context),
    ]
    command += ["--max-num-seqs", str(sequences), "--gpu-memory-utilization", str(memory)]
    command += [
        "--tensor-parallel-size",
        str(tensor_parallel),
        "--generation-config",
        "vllm",
        "--enable-scale-out",
    ]
    command += ["--worker-extension-cls", WORKER_EXTENSION, "--logprobs-mode", LOGPROBS_MODE]
    command += ["--kv-cache-memory-bytes", str(int(kv_cache_gib * 2**30))] if kv_cache_gib else []
    command += _flags(cpu_options(context)) if cpu else _flags({"enforce_eager": eager})
    settings = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"} if cpu else {}
    # The server replaces this process, so that signals and its end are its own.
    say(f"vLLM serves {model} on http://{host}:{port}")
    os.execve(sys.executable, [*command, *(more or [])], {**settings, **os.environ})


def _flags(options: dict[str, Any]) -> list[str]:
    """Engine arguments as words of vLLM's command line."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += (
            [f"--{'' if value else 'no-'}{flag}"]
            if isinstance(value, bool)
            else [f"--{flag}", str(value)]
        )
    return words


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
