"""Adapters in vLLM: small updates reach it whole, in this process and on servers. Needs vLLM:
`make test-vllm`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tests.engine_server import TOKEN, EngineServer
from tests.rollout.engines.vllm_engine import adapters_job
from tests.training.test_vllm_runs import check_run, settings
from tspo_cli.runs import read_jsonl
from tspo_cli.text.access_token import ENGINE_TOKEN

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]
Tspo = Callable[..., Finished]
LAYERS = 14
"""Linear layers of the playground's policy."""


def train_and_hand_over(model: Path, dtype: str, rate: float) -> dict[str, Any]:
    command = [sys.executable, adapters_job.__file__, str(model), dtype, str(rate)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["layers"] == LAYERS
    assert ".lora_" in result["stale"], "adapters of earlier updates are noticed"
    return result


def test_ten_small_updates_in_bfloat16(playground: Playground) -> None:
    """Merged, almost all of them is rounded away."""
    result = train_and_hand_over(playground.model, "bfloat16", 2e-5)
    assert result["lost"] < 0.05
    assert result["lost_merged"] > 0.5


def test_ten_large_updates_in_float32(playground: Playground) -> None:
    """Engine and learner are the same policy, before and after."""
    result = train_and_hand_over(playground.model, "float32", 1e-2)
    assert result["lost"] < 1e-5
    assert max(result["gaps"]) < 1e-4


def test_a_server_gets_adapters_whatever_it_had_before(
    playground: Playground, tspo: Tspo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model of the same shape first, then a run of whole weights, then one of adapters; it
    dies between two runs.
    """
    other = tmp_path / "other"
    options = {"data__world": playground.world, "eval__data": "[]", "train__steps": 1, "seed": 5}
    tspo("train", "tiny/warmstart", "--out", other, *playground.settings(**options))
    server = EngineServer(other / "model", tmp_path / "log.txt", "--lora-rank", 4)
    server.start()
    try:
        server.wait()
        monkeypatch.setenv(ENGINE_TOKEN, TOKEN)
        options = {"vllm__url": json.dumps([server.url]), "train__steps": 2}
        lora = {"lora__rank": 4, "lora__handover": "adapters", "optimizer__lr": 1e-2}
        lora |= {"optimizer__warmup": 0}
        for number, more in enumerate((lora, {}, lora, lora)):
            run = tmp_path / f"run_{number}"
            tspo("train", "tiny/tspo", "--out", run, *settings(playground, **options, **more))
            check_run(run, 2)
            assert read_jsonl(run / "metrics.jsonl")[0]["grad_norm"] > 0
            if number == 2:
                server.kill()
                server.start()
                server.wait()
        high = settings(playground, **options, **{**lora, "lora__rank": 9})
        refused = run_tspo("train", "tiny/tspo", "--out", tmp_path / "high", *high)
        assert refused.code == 3
        assert "--lora-rank 9" in refused.err.splitlines()[-1]
        assert "lora.handover" in refused.err.splitlines()[-1]
    finally:
        server.kill()
