"""`tspo engine`: a vLLM server for training runs with vllm.url."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from json import dumps
from typing import Annotated, Any, Literal

import typer

from tspo_cli.commands.options import Json
from tspo_cli.console import result_json, say
from tspo_cli.errors import MissingResourceError, UsageError
from tspo_cli.packages import require


def engine(
    model: Annotated[
        str, typer.Argument(help="Model directory or hub name that training starts from.")
    ],
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. An address that other machines reach needs a token."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8100,
    token_file: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="File with the bearer token. Default: $TSPO_ENGINE_TOKEN."
        ),
    ] = "",
    context: Annotated[
        int, typer.Option(min=1, help="Most tokens of a prompt with all its turns.")
    ] = 4096,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Type of the weights.")
    ] = "auto",
    sequences: Annotated[
        int, typer.Option(min=1, help="Maximum number of requests decoded at once.")
    ] = 256,
    memory: Annotated[
        float, typer.Option(min=0, max=1, help="Share of GPU memory for weights and KV cache.")
    ] = 0.9,
    kv_cache_gib: Annotated[
        float,
        typer.Option(
            min=0, max=1e6, help="GiB of the KV cache. 0: what --memory leaves; on a CPU 1."
        ),
    ] = 0,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="Number of GPUs that share one copy of the model.")
    ] = 1,
    lora_rank: Annotated[
        int,
        typer.Option(min=0, help="Largest rank of the adapters that runs train. 0: whole weights."),
    ] = 0,
    lora_targets: Annotated[
        list[str] | None,
        typer.Option(
            "--lora-target", help="A layer with adapters. Default: all linear but the output."
        ),
    ] = None,
    float32_head: Annotated[
        bool, typer.Option("--float32-head", help="Compute logits in float32 (model.float32_head).")
    ] = False,
    transfer: Annotated[
        Literal["auto", "files", "nccl"],
        typer.Option(
            help="How it takes new weights: as files, or also over NCCL, which needs a GPU. auto: "
            "both on a GPU."
        ),
    ] = "auto",
    eager: Annotated[
        bool, typer.Option("--eager", help="No CUDA graphs: a faster start, slower generation.")
    ] = False,
    more: Annotated[
        list[str] | None, typer.Argument(help="Further arguments of the vLLM server, after --.")
    ] = None,
    json: Json = False,
) -> None:
    """Serve a policy with vLLM to training runs, which update its weights.

    A run uses it with --set rollout.engine=vllm --set 'vllm.url=["http://127.0.0.1:8100"]'. vLLM
    must be installed, in an environment of its own (`make vllm`, docs/vllm.md). Whoever reaches a
    server can replace its weights: with a token it answers only who sends it, but for GET /health.
    """
    from tspo_cli.models.load_model import linear_layers
    from tspo_cli.rollout.engines.vllm_engine.adapters import adapter_options
    from tspo_cli.rollout.engines.vllm_engine.vllm_messages import (
        CPU_KV_CACHE_GIB,
        FLOAT32_HEAD,
        GUARD,
        LOGPROBS_MODE,
        WORKER_EXTENSION,
        cpu_options,
        gpu_options,
        memory_options,
    )
    from tspo_cli.text.access_token import ENGINE_TOKEN, read_token

    token = read_token(ENGINE_TOKEN, token_file)
    if not token and not _is_loopback(host):
        raise UsageError(
            f"--host {host}: other machines can reach this address; give --token-file FILE or set "
            f"{ENGINE_TOKEN}"
        )
    require("vllm", "tspo engine")
    cpu = not _has_gpu()
    if cpu and transfer == "nccl":
        raise MissingResourceError(
            "--transfer nccl: needs a GPU, and there is none here; leave the option out"
        )
    if cpu and not kv_cache_gib:
        kv_cache_gib = CPU_KV_CACHE_GIB
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += [
        "--dtype",
        dtype,
        "--max-model-len",
        str(context),
    ]
    command += ["--max-num-seqs", str(sequences)]
    command += [
        "--tensor-parallel-size",
        str(tensor_parallel),
        "--generation-config",
        "vllm",
        "--enable-scale-out",
    ]
    command += ["--worker-extension-cls", WORKER_EXTENSION, "--logprobs-mode", LOGPROBS_MODE]
    options = cpu_options(context) if cpu else gpu_options(sequences, eager=eager)
    options |= memory_options(memory, kv_cache_gib)
    if lora_rank:
        layers = lora_targets or linear_layers(model)
        options |= adapter_options(lora_rank, layers, max(context, sequences), cpu=cpu)
    command += _flags(options)
    if transfer != "files" and not cpu:
        command += ["--weight-transfer-config", dumps({"backend": "nccl"})]
    command += ["--hf-overrides", dumps(FLOAT32_HEAD)] if float32_head else []
    # The last --host counts: no further argument opens the server to others.
    command += [*(more or []), "--host", host, "--port", str(port)]
    command += ["--middleware", GUARD] if token else []
    settings = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    settings |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} if lora_rank else {}
    settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"} if cpu else {}
    # The server replaces this process: it gets the signals, and its exit code is that of `tspo`.
    url = f"http://{host}:{port}"
    say(f"vLLM serves {model} on {url}")
    if json:
        result_json({"model": model, "url": url})
    secret = {ENGINE_TOKEN: token} if token else {}
    os.execve(sys.executable, command, {**settings, **os.environ, **secret})


def _flags(options: dict[str, Any]) -> list[str]:
    """Engine arguments as options of vLLM's command line."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach all addresses of `host`.

    Raises:
        UsageError: it has none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise UsageError(f"--host {host}: no host can have this name") from None
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror or error}") from None
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
