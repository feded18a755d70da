"""`train.portable`: a run's bytes do not depend on the instructions that libraries would choose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import Playground, run_tspo
from tspo_cli import arithmetic
from tspo_cli.arithmetic import PORTABLE, cannot_be_portable, compute_portably
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import portable_problems
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.engines.hf.products import can_pack
from tspo_cli.training.launch.same_experiment import check_same_experiment

needs_avx2 = pytest.mark.skipif(
    bool(cannot_be_portable())
    or not torch.backends.mkl.is_available()
    or torch.cuda.is_available(),
    reason="needs an x86-64 processor with AVX2, a PyTorch with MKL, and no GPU",
)
NARROW = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    "OPENBLAS_CORETYPE": "Nehalem",
}
"""What a user, or an older processor, would make of the libraries."""


def in_new_process(*arguments: object, **environment: str) -> None:
    command = [sys.executable, "-m", "tspo_cli", *map(str, arguments)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def bytes_of(run: Path) -> tuple[bytes, bytes]:
    return (run / "metrics.jsonl").read_bytes(), (run / "model/model.safetensors").read_bytes()


@needs_avx2
def test_other_instructions_give_the_same_bytes(playground: Playground, tmp_path: Path) -> None:
    settings = playground.settings(
        train__steps=1, rollout__questions_per_step=2, eval__every=0, checkpoint__every=0
    )
    portable = ["--set", "train.portable=true"]
    native, direct, sweep = (tmp_path / name for name in ("native", "direct", "sweep"))
    assert run_tspo("train", "tiny/grpo", "--out", native, *settings).code == 0
    in_new_process("train", "tiny/grpo", "--out", direct, *settings, *portable)
    file = tmp_path / "cells.sweep.toml"
    file.write_text('base = "tiny/grpo"\nseeds = [0]\n[arms.grpo]\n', encoding="utf-8")
    in_new_process("sweep", file, "--out", sweep, *settings, *portable, **NARROW)
    assert bytes_of(direct) == bytes_of(next(sweep.rglob("metrics.jsonl")).parent)
    assert bytes_of(direct) != bytes_of(native)  # so the setting does something
    modes = [
        json.loads((run / "env.json").read_text("utf-8"))["arithmetic"] for run in (direct, native)
    ]
    assert [mode["mode"] for mode in modes] == ["portable", "native"]
    assert modes[0]["instructions"] == "AVX2"
    before, now = (load_config([run / "config.toml"]) for run in (native, direct))
    with pytest.raises(InvalidInputError, match=r"train\.portable \(was false, now true\)"):
        check_same_experiment(before, now, native)


@needs_avx2
def test_libraries_that_are_loaded_already_are_an_error(playground: Playground) -> None:
    settings = [*playground.settings(), "--set", "train.portable=true"]
    done = run_tspo("train", "tiny/grpo", *settings)  # a fork of a process with the libraries
    assert done.code == 3
    assert "train.portable: the libraries of this process are loaded with" in done.err
    evaluation = run_tspo(
        "eval", playground.model, "--data", playground.world / "test.jsonl", "--index",
        playground.index, "--set", "train.portable=true",
    )  # fmt: skip
    assert evaluation.code == 3
    assert "loaded with" in evaluation.err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.threads=2", "several threads"),
        ("train.compile=true", "this processor alone"),
        ("model.dtype=bfloat16", "only float32"),
        ("rollout.engine=vllm", "vLLM chooses"),
    ],
)
def test_what_has_no_kernels_that_repeat(setting: str, words: str) -> None:
    config = load_config(["tiny/grpo"], [setting, "train.portable=true"])
    (problem,) = portable_problems(config)
    assert words in problem
    assert list(portable_problems(load_config(["tiny/grpo"], [setting]))) == []


def test_a_sweep_does_not_mix_arithmetics(tmp_path: Path) -> None:
    file = tmp_path / "mixed.sweep.toml"
    file.write_text(
        'base = "tiny/grpo"\nseeds = [0]\n[arms.grpo]\n[grid]\n"train.portable" = [true, false]\n',
        encoding="utf-8",
    )
    done = run_tspo("sweep", file, "--out", tmp_path / "out")
    assert done.code == 3
    assert "compares arithmetics" in done.err


@pytest.mark.parametrize("flags", ["sse4_2 avx", "avx avx2", "fma"])
def test_an_old_processor_is_an_error(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_cpuinfo", lambda name: flags)
    compute_portably(False)
    with pytest.raises(InvalidInputError, match="AVX2 and FMA"):
        compute_portably(True)


@pytest.mark.parametrize(
    "changed",
    [{"MKL_CBWR": "AVX2"}, {"OMP_NUM_THREADS": "2"}, {"MKL_ENABLE_INSTRUCTIONS": "AVX512"}],
)
def test_one_other_variable_is_another_arithmetic(changed: dict[str, str]) -> None:
    assert arithmetic._is_portable({**PORTABLE, "HOME": "/"})
    assert not arithmetic._is_portable({**PORTABLE, **changed})


def test_without_onednn_weights_are_not_packed() -> None:
    could = can_pack(torch.float32)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not can_pack(torch.float32)
    assert can_pack(torch.float32) == could
