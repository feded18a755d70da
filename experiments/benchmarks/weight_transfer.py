"""Seconds for each GB of weights that reach a vLLM server: as files, and over NCCL.

    python experiments/benchmarks/weight_transfer.py                  two GPUs, 3B shape
    python experiments/benchmarks/weight_transfer.py --shape 135m     also on a CPU: files alone

It needs an environment with vLLM (`make vllm`). NCCL needs two GPUs with the same NCCL in learner
and server: the server gets the last GPU, and this process sends from the first. With one GPU, or
none, files alone are measured, and a line says why. The model has random weights in bfloat16. Each
way is measured --repeats times after a first hand-over, which includes the meeting and is shown on
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import torch

from experiments.benchmarks.common import machine
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.packages import require
from tspo_cli.rollout.engines.vllm_engine.nccl import NcclGroups
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers

SHAPES = {
    "135m": (576, 1536, 30, 9, 3, 49_152),
    "3b": (2048, 11_008, 36, 16, 2, 151_936),
    "7b": (3584, 18_944, 28, 28, 4, 152_064),
}
CONTEXT = 512
START_SECONDS = 900.0
"""For vLLM to start: 40 s on quiet cores, many times that on shared ones."""


def make_model(shape: str, folder: Path) -> Any:
    """A Qwen2 model of random weights in bfloat16, saved in `folder`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tspo_cli.models.tokenizer import tiny_tokenizer

    hidden, inner, layers, heads, groups, vocabulary = SHAPES[shape]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    tiny_tokenizer(["a"], ["ba"]).save_pretrained(folder)
    return model


def start_server(model: Path, gpu: int | None, log: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """`tspo engine` on a free port, on `gpu`; returns when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
    words = ["engine", model, "--port", port, "--context", CONTEXT, "--dtype", "bfloat16"]
    words += ["--eager", "--sequences", 8, "--kv-cache-gib", 0.5]
    command = [sys.executable, "-m", "tspo_cli", *map(str, words)]
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **visible}
        )
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    print(f"waiting for the server; its log is {log}", file=sys.stderr)
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(url + "/health", timeout=5).is_success:
                return url, process
        except httpx.TransportError:
            time.sleep(1)
    code = process.poll()
    process.kill()
    process.wait()
    last = (log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"])[-1]
    ended = f"was not ready after {START_SECONDS:g} s" if code is None else f"ended with {code}"
    raise SystemExit(f"error: the server {ended}: {last}")


def measure(url: str, way: str, model: Any, folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of the first hand-over, and seconds per GB of the others."""
    weights = {name: value.detach() for name, value in model.named_parameters()}
    size = sum(value.nbytes for value in weights.values()) / 1e9
    device = next(iter(weights.values())).device
    engine = VllmServers(
        [url],
        folder,
        eos_ids=[1],
        max_context=CONTEXT,
        patience=600.0,
        processes=ProcessGroup(),
        log=print,
        in_memory=True,
        transfer="nccl" if way == "nccl" else "files",
        groups=NcclGroups(device) if device.type == "cuda" and way == "nccl" else None,
    )
    seconds = []
    for version in range(repeats + 1):
        started = time.perf_counter()
        engine.load_weights(weights, version)
        seconds.append(time.perf_counter() - started)
    engine.close()
    rates = [value / size for value in seconds[1:]]
    return {
        "way": way,
        "gb": round(size, 3),
        "first_seconds": round(seconds[0], 3),
        "seconds_per_gb": round(statistics.median(rates), 3),
        "seconds_per_gb_range": [round(min(rates), 3), round(max(rates), 3)],
    }


def main() -> None:
    """Measure, and print one line of JSON for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="3b")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    gpus = torch.cuda.device_count()
    try:
        require("vllm", "weight_transfer.py")
    except MissingResourceError as error:
        raise SystemExit(f"error: {error}") from None
    if not gpus and options.shape != "135m":
        raise SystemExit(
            f"error: --shape {options.shape} needs a GPU, and none is here; --shape 135m measures "
            "files on a CPU"
        )
    print(json.dumps({"machine": machine(), "gpus": gpus, "shape": options.shape}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(options.shape, folder / "model").to("cuda:0" if gpus else "cpu")
        gpu = gpus - 1 if gpus else None
        url, server = start_server(folder / "model", gpu, folder / "server.log")
        try:
            for way in ("files", "nccl"):
                if way == "nccl" and gpus < 2:
                    print(f"nccl: not measured: it needs two GPUs, here are {gpus}")
                    continue
                try:
                    print(json.dumps(measure(url, way, model, folder / way, options.repeats)))
                except InvalidInputError as error:
                    print(f"{way}: not measured: {error}")
        finally:
            server.terminate()
            server.wait(timeout=60)


if __name__ == "__main__":
    main()
