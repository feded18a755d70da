"""Every engine offers the whole Engine protocol, so that nobody needs to ask which one it is."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from tspo_cli.rollout.engines.endpoint.endpoint_engine import EndpointEngine
from tspo_cli.rollout.engines.engine_protocol import Engine
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import WORKER_EXTENSION
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import VllmServers

METHODS = sorted(name for name in vars(Engine) if not name.startswith("_"))


@pytest.mark.parametrize("engine", [TransformersEngine, EndpointEngine, VllmEngine, VllmServers])
def test_engine_has_the_methods_of_the_protocol(engine: type[Any]) -> None:
    assert {"submit", "step", "release", "load_weights", "sleep", "close"} <= set(METHODS)
    for name in METHODS:
        expected, actual = getattr(Engine, name), getattr(engine, name)
        assert list(inspect.signature(actual).parameters) == list(
            inspect.signature(expected).parameters
        )


def test_the_worker_extension_of_vllm_exists() -> None:
    module, _, name = WORKER_EXTENSION.rpartition(".")
    extension = getattr(importlib.import_module(module), name)
    assert {"tspo_load_files", "tspo_load_tensors"} <= set(vars(extension))
