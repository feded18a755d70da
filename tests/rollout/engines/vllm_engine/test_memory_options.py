"""What vLLM is told about its memory on a GPU (vLLM itself is not started)."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from tspo_cli.commands import engine as engine_command
from tspo_cli.commands.app import app
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import gpu_options, memory_options

GIB = 2**30


def test_a_cache_of_stated_size_needs_no_free_share() -> None:
    """vLLM 0.32 does not start where less than its share is free (v1/worker/utils.py,
    request_memory), also where the size of the cache makes the share meaningless. A learner of 3B
    parameters with its optimiser leaves less than 0.4 of 80 GiB.
    """
    stated = gpu_options(64, eager=False) | memory_options(0.4, 12)
    assert stated["kv_cache_memory_bytes"] == 12 * GIB
    assert 0 < stated["gpu_memory_utilization"] <= 0.05
    assert memory_options(0.4, 0) == {"gpu_memory_utilization": 0.4}


@pytest.mark.parametrize("cache", [0, 8])
def test_a_server_with_a_stated_cache_starts_beside_others(
    cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, arguments, __: started.append(arguments))
    monkeypatch.setattr(engine_command, "require", lambda *_: None)
    monkeypatch.setattr(engine_command, "_has_gpu", lambda: True)
    done = CliRunner().invoke(app, ["engine", "model", "--kv-cache-gib", str(cache)])
    assert done.exit_code == 0, done.output
    (words,) = started
    share = float(words[words.index("--gpu-memory-utilization") + 1])
    assert share == 0.9 if not cache else share <= 0.05
    assert ("--kv-cache-memory-bytes" in words) is bool(cache)
