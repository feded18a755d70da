"""A Slurm job with vLLM servers, on a cluster of local processes. Needs vLLM: `make test-vllm`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground
from tests.training.launch.fake_slurm import FakeSlurm
from tests.training.launch.test_cluster import listening, steps, words
from tests.training.test_vllm_runs import check_run
from tspo_cli.runs import read_json, read_jsonl

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 10


def test_a_slurm_job_with_two_vllm_servers_is_queued_again(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    """Two nodes, each with a training process and an engine; a retriever on the first. The job's
    time ends in the middle, and its second attempt has other ports.
    """
    run = tmp_path / "run"
    options = words(
        playground,
        rollout__engine="vllm",
        launch__retriever="first",
        launch__engines=1,
        launch__processes=1,
        train__steps=STEPS,
        checkpoint__every=50,
        vllm__kv_cache_gib=0.25,
    )
    printed = tspo(
        *("train", *options, "--out", run),
        *("--print-launch", "slurm", "--nodes", 2, "--gpus", 0),
    )
    script = tmp_path / "job.sh"
    script.write_text(printed.out)
    slurm = FakeSlurm(tmp_path, ["127.0.0.1", "127.0.0.2"])
    codes = slurm.run(script, 4712, stop=lambda: steps(run) >= STEPS // 2, timeout=1700)
    log = (tmp_path / "run.4712.log").read_text()
    assert [code > 128 for code in codes] == [True, False], log[-3000:]
    assert codes[1] == 0, log[-3000:]
    assert read_json(run / "status.json")["state"] == "finished"
    check_run(run, STEPS)
    (change,) = read_jsonl(run / "changes.jsonl")
    for key in ("vllm.url", "retriever.url"):
        before, now = change["changes"][key]
        assert before != now
        assert not any(listening(url) for url in (*before, *now)), "servers end with the job"
    assert len(change["changes"]["vllm.url"][1]) == 2
    assert change["step"] >= STEPS // 2
    assert "TOKEN" not in log
