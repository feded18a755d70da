"""`tspo doctor` on the machine that runs the tests."""

from __future__ import annotations

import json
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner, Result

from tspo_cli.commands.doctor import _without_cuda, doctor


def doctor_(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, arguments)


def test_json_has_a_stable_form() -> None:
    done = doctor_("--json")
    checks = json.loads(done.stdout)["checks"]
    assert done.exit_code == 0
    assert all(set(check) == {"name", "state", "detail"} for check in checks)
    assert {check["state"] for check in checks} <= {"ok", "missing", "optional"}
    states = {check["name"]: check["state"] for check in checks}
    # What these tests themselves stand on.
    assert {
        states[name] for name in ("python", "torch", "transformers", "deepspeed", "bm25s", "faiss")
    } == {"ok"}
    assert {"cores", "disk", "vllm", "C compiler", "loopback sockets"} <= set(states)


def test_what_is_not_there_comes_with_the_line_that_adds_it() -> None:
    checks = json.loads(doctor_("--json").stdout)["checks"]
    extras = [
        check for check in checks if check["name"] in ("vllm", "peft", "qdrant-client", "trl")
    ]
    assert all("pip install" in check["detail"] for check in extras if check["state"] == "optional")


def test_text_has_a_line_per_check_and_a_verdict() -> None:
    lines = doctor_().stdout.splitlines()
    assert any(line.startswith("ok") and "python" in line for line in lines)
    assert "missing" in lines[-1]


@pytest.mark.parametrize(
    ("builds", "state", "said"),
    [
        (["faiss-cpu"], "ok", "faiss-cpu 1.12.0"),
        ([], "missing", "pip install faiss-cpu"),
        (
            ["faiss-gpu", "faiss-cpu"],
            "missing",
            "uninstall faiss-cpu, then pip install --force-reinstall --no-deps faiss-gpu",
        ),
        (["faiss-cpu", "faiss-gpu-cu12"], "missing", "no-deps faiss-gpu-cu12"),
        (["faiss-gpu", "faiss-gpu-cu12"], "missing", "uninstall faiss-gpu-cu12, then"),
    ],
)
def test_builds_of_faiss_that_overwrite_each_other_are_seen(
    builds: list[str], state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = dict.fromkeys(builds, "1.12.0")
    monkeypatch.setattr(import_module("tspo_cli.commands.doctor"), "_version", versions.get)
    checks = {check["name"]: check for check in json.loads(doctor_("--json").stdout)["checks"]}
    assert checks["faiss"]["state"] == state
    assert said in checks["faiss"]["detail"]


@pytest.mark.parametrize(
    ("build", "has_driver", "state", "said"),
    [
        (None, False, "optional", "run on the CPU"),
        ("12.8", False, "optional", "run on the CPU"),
        (None, True, "missing", "make env CONSTRAINTS="),
        ("12.8", True, "missing", "CUDA 12.8, and finds no device; compare with nvidia-smi"),
    ],
)
def test_a_gpu_that_pytorch_does_not_use_is_said(
    build: str | None, has_driver: bool, state: str, said: str
) -> None:
    """A GPU machine with the CPU's PyTorch trained on the CPU without a word."""
    check = _without_cuda(build, has_driver=has_driver)
    assert check.state == state
    assert said in check.detail
