"""Training runs that roll out with vLLM, in their processes and on servers. Needs vLLM: `make
test-vllm`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground
from tests.engine_server import EngineServer
from tspo_cli.runs import read_json, read_jsonl, read_jsonl_gz

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]
Tspo = Callable[..., Finished]
STEPS = 5


def settings(playground: Playground, **more: object) -> list[str]:
    options = {
        "rollout__engine": "vllm",
        "train__steps": STEPS,
        "eval__every": 0,
        "eval__data": "[]",
    }
    options |= {"credit__outcome": "em_format"}
    return playground.settings(**{**options, **more})


def check_run(run: Path, steps: int = STEPS, staleness: Sequence[int] = ()) -> None:
    """Every step was sampled by the weights that it says, and by no others."""
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    ages = staleness or [0] * steps
    loads = read_jsonl(run / "timings.jsonl")
    for row, load, age in zip(rows, loads, ages, strict=True):
        assert row.get("staleness", 0) == age
        assert age or row["parity"] < 1e-4
        assert row["handover_parity"] < 1e-4
        assert row["mixed_share"] == row["failed_share"] == 0
        assert (0 <= load["kv_cache_peak"] <= 1, load["preemptions"]) == (True, 0)
        for group in read_jsonl_gz(run / "rollouts" / f"step_{row['step']:06}.jsonl.gz"):
            assert {rollout["weight_version"] for rollout in group["trajectories"]} == {
                row["step"] - 1 - age
            }


def start(run: Path, options: Sequence[str]) -> subprocess.Popen[str]:
    """A run that has made two steps."""
    command = [sys.executable, "-m", "tspo_cli", "train", "tiny/grpo", "--out", str(run), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while len(read_jsonl(run / "metrics.jsonl")) < 2:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    return process


def test_the_engine_in_the_learners_process_rolls_out_ahead(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    options = settings(playground, rollout__one_step_off="true", checkpoint__every=3)
    done = tspo("train", "--json", "tiny/grpo", "--out", tmp_path / "run", *options)
    assert json.loads(done.out)["step"] == STEPS, "nothing but the result on stdout"
    check_run(tmp_path / "run", staleness=(0, 1, 1, 0, 1))
    rows = read_jsonl(tmp_path / "run" / "timings.jsonl")
    assert all(row["kv_cache_peak"] > 0 for row in rows)


@pytest.mark.parametrize("handover", ["adapters", "merged"])
def test_adapters_reach_an_engine_in_this_process(
    playground: Playground, tspo: Tspo, tmp_path: Path, handover: str
) -> None:
    """What the engine samples with moves away from the frozen policy."""
    lora = {"lora__rank": 4, "lora__handover": handover}
    options = settings(playground, **lora, optimizer__lr=1e-2, optimizer__warmup=0, train__steps=3)
    tspo("train", "tiny/tspo", "--out", tmp_path / "run", *options)
    check_run(tmp_path / "run", 3)
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl")[0]["grad_norm"] > 0
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def test_two_learners_with_an_engine_each(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    tspo(
        "train",
        "tiny/grpo",
        "--out",
        tmp_path / "run",
        *settings(playground, train__processes=2, train__steps=3),
    )
    check_run(tmp_path / "run", 3)


def test_two_learners_with_two_servers_outlive_one(
    servers: Sequence[EngineServer], playground: Playground, tmp_path: Path
) -> None:
    """The process that computes dies; the server is started again with the weights of the
    beginning.
    """
    urls, run = json.dumps([server.url for server in servers]), tmp_path / "run"
    process = start(
        run, settings(playground, vllm__url=urls, train__processes=2, train__steps=2000)
    )
    servers[1].kill_engine()
    servers[1].start()
    log, back = run / "logs" / "attempt_1.log", f"engine {servers[1].url} is back"
    while back not in log.read_text("utf-8"):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.2)
    until = len(read_jsonl(run / "metrics.jsonl")) + 3
    while len(read_jsonl(run / "metrics.jsonl")) < until:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors[-3000:]
    assert f"engine {servers[1].url} is lost" in errors
    check_run(run, len(read_jsonl(run / "metrics.jsonl")))
    assert all(server.sampled_tokens() > 0 for server in servers)


def ends_without(
    server: EngineServer, end: Callable[[], None], run: Path, options: Sequence[str]
) -> None:
    """The run says which server it missed and how to go on."""
    process = start(run, [*options, "--set", "vllm.patience=2", "--set", "train.steps=500"])
    end()
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 5
    last = errors.strip().splitlines()[-1]
    assert last.startswith(
        f"error: {server.url}: no vLLM server responds, waited 2 s (vllm.patience)"
    )
    assert "--resume" in last
    assert read_json(run / "status.json")["state"] == "failed"


def test_the_only_server_that_stays_away_ends_the_run(
    servers: Sequence[EngineServer], playground: Playground, tmp_path: Path
) -> None:
    """Its connections are open, but it says nothing any more."""
    urls = json.dumps([servers[1].url])
    try:
        ends_without(
            servers[1], servers[1].stop, tmp_path / "run", settings(playground, vllm__url=urls)
        )
    finally:
        servers[1].go_on()


def test_a_server_that_is_gone_is_done_without(
    servers: Sequence[EngineServer], playground: Playground, tmp_path: Path
) -> None:
    urls = json.dumps([server.url for server in servers])
    process = start(tmp_path / "run", settings(playground, vllm__url=urls, train__steps=6))
    servers[1].kill()
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]
    assert f"engine {servers[1].url} is lost" in errors
    check_run(tmp_path / "run", 6)
