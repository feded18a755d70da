"""A sweep that is stopped says so, and what goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Playground

pytestmark = pytest.mark.slow


def test_a_stopped_sweep_says_what_goes_on(playground: Playground, tmp_path: Path) -> None:
    file, out = tmp_path / "few.toml", tmp_path / "out"
    file.write_text(
        f"""
base = "tiny/grpo"
seeds = [0, 1]
baseline = "grpo"
[settings]
train.steps = 1000
eval = {{ every = 0, data = [] }}
data.train = [{json.dumps(str(playground.world / "train.jsonl"))}]
retriever.index = {json.dumps(str(playground.index))}
model.path = {json.dumps(str(playground.model))}
[arms.grpo]
[arms.tspo]
credit.algorithm = "tspo"
"""
    )
    command = [sys.executable, "-m", "tspo_cli", "sweep", str(file), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        os.kill(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    assert first == f"4 cells in {out}, 1 at a time; their messages are in {out}/logs\n"
    assert f"Ctrl-C: stopped; the same command trains what is missing in {out}\n" in rest
    assert process.returncode == 130
