"""`tspo doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json
from tspo_cli.packages import OPTIONAL

_FAISS = ("faiss", "faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")
"""Packages that bring the module faiss."""
_NVIDIA = Path("/dev/nvidiactl")
"""Where the driver of NVIDIA's GPUs is, on Linux."""
_CORE = ("transformers", "deepspeed", "bm25s", "datasets", "fastapi")


@dataclass(frozen=True)
class Check:
    """One line of the report. `state` is ok, missing (something will not work) or optional (an
    extra that is not installed).
    """

    name: str
    state: str
    detail: str


def doctor(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]", help="A run, a folder of tspo eval or a sweep to look at instead."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Report what this machine can do, what is missing and how to install it.

    With RUN: what is wrong with a run directory, which checkpoint --resume takes, and what to do;
    the same for a folder of tspo eval, and for a sweep with all its runs. Nothing is changed. The
    exit code is 1 if there is a problem, and always 0 without RUN.
    """
    if run is not None:
        _examine(run, as_json)
        return
    checks = [*_machine(), *_torch(), *_packages(), *_tools()]
    if as_json:
        console.result_json({"checks": [asdict(check) for check in checks]})
        return
    for check in checks:
        console.result(f"{check.state:<9}{check.name:<22} {check.detail}")
    missing = [check.name for check in checks if check.state == "missing"]
    console.result(
        f"\n{len(missing)} missing: {', '.join(missing)}" if missing else "\nnothing is missing"
    )


def _examine(run: Path, as_json: bool) -> None:
    from tspo_cli.config.sweeps.sweep_record import is_sweep
    from tspo_cli.evaluation.resuming.examine_evaluation import (
        diagnose_evaluation,
        is_evaluation_folder,
    )
    from tspo_cli.text.printable import one_line
    from tspo_cli.training.start.diagnosis import diagnose
    from tspo_cli.training.start.sweep_diagnosis import diagnose_sweep

    examine = diagnose_sweep if is_sweep(run) else diagnose
    findings = diagnose_evaluation(run) if is_evaluation_folder(run) else examine(run)
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        record = {"run": str(run), "ok": not problems, "findings": [asdict(f) for f in findings]}
        console.result_json(record)
    else:
        for finding in findings:
            console.result(one_line(f"{finding.state:<9}{finding.name:<15} {finding.detail}"))
        console.result(f"\n{problems or 'no'} problem{'s' * (problems != 1)}")
    if problems:
        raise typer.Exit(1)


def _machine() -> Iterator[Check]:
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield Check(
        "python",
        "ok" if fits else "missing",
        f"{platform.python_version()} (3.11 to 3.13 are supported)",
    )
    yield Check(
        "cores",
        "ok",
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}",
    )
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        yield Check(
            "memory",
            "ok" if memory >= 4 else "missing",
            f"{memory:.1f} GiB (the demo needs about 4)",
        )
    free = shutil.disk_usage(".").free / 2**30
    yield Check(
        "disk",
        "ok" if free >= 2 else "missing",
        f"{free:.1f} GiB free in this folder (the demo needs less than 2)",
    )


def _torch() -> Iterator[Check]:
    if util.find_spec("torch") is None:
        yield Check("torch", "missing", "pip install torch")
        return
    import torch

    yield Check("torch", "ok", torch.__version__)
    yield _arithmetic()
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            yield Check(
                f"cuda:{number}", "ok", f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
            )
        yield _nccl()
    else:
        yield _without_cuda(torch.version.cuda, has_driver=_NVIDIA.exists())


def _without_cuda(build: str | None, *, has_driver: bool) -> Check:
    """Why PyTorch has no CUDA device. `build` is the version of CUDA that it was built for."""
    if not has_driver:
        detail = "no CUDA device: training and evaluation run on the CPU"
        return Check("cuda", "optional", detail)
    if build is None:
        reason = (
            "this PyTorch was built for the CPU, and the machine has an NVIDIA GPU; install "
            "another build, in a checkout by: rm -r .venv && make env CONSTRAINTS= "
            "(docs/vllm.md has the line for .venv-vllm)"
        )
    else:
        reason = (
            f"this PyTorch was built for CUDA {build}, and finds no device; compare with "
            "nvidia-smi, and with CUDA_VISIBLE_DEVICES"
        )
    return Check("cuda", "missing", reason)


def _nccl() -> Check:
    from tspo_cli.rollout.engines.vllm_engine.nccl import library_version, version_words

    version = library_version()
    detail = version_words(version) + " (weights to vLLM servers that have the same version)"
    absent = "cannot be loaded: weights reach vLLM servers as files"
    return Check("nccl", "ok" if version else "optional", detail if version else absent)


def _arithmetic() -> Check:
    from tspo_cli.arithmetic import arithmetic, cannot_be_portable

    here = arithmetic()
    problem = cannot_be_portable()
    detail = f"{here['mode']}, {here['instructions']} on {here['processor']}, {here['libc']}; "
    can = f"not here: {problem}" if problem else "repeats results on other processors"
    return Check("arithmetic", "optional" if problem else "ok", f"{detail}train.portable {can}")


def _packages() -> Iterator[Check]:
    for module in _CORE:
        version = _version(module)
        yield Check(module, "ok" if version else "missing", version or f"pip install {module}")
    yield _faiss([name for name in _FAISS if _version(name)])
    for package in OPTIONAL.values():
        version = _version(package.name) or _version(f"{package.name}-cpu")
        yield Check(
            package.name,
            "ok" if version else "optional",
            version or f"{package.purpose}: {package.cure}",
        )


def _faiss(builds: Sequence[str]) -> Check:
    """`builds` are the installed packages that bring the module. Several of them overwrite each
    other's files.
    """
    if len(builds) > 1:
        needless = " ".join(name for name in builds if "gpu" not in name) or builds[-1]
        again = next(name for name in builds if name not in needless.split())
        return Check(
            "faiss",
            "missing",
            f"{' and '.join(builds)} are all installed and overwrite each other's files: pip "
            f"uninstall {needless}, then pip install --force-reinstall --no-deps {again}",
        )
    versions = " ".join(f"{name} {_version(name)}" for name in builds)
    return Check("faiss", "ok" if versions else "missing", versions or "pip install faiss-cpu")


def _tools() -> Iterator[Check]:
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    yield Check(
        "C compiler",
        "ok" if compiler else "optional",
        compiler or "none: DeepSpeed's own kernels cannot be built",
    )
    problem = _loopback_problem()
    yield Check(
        "loopback sockets",
        "missing" if problem else "ok",
        problem or "127.0.0.1 answers (serve, several processes)",
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None


def _loopback_problem() -> str | None:
    """Send a byte over 127.0.0.1. Return the reason if that fails."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(2)
            with socket.create_connection(server.getsockname(), timeout=2) as client:
                client.sendall(b"x")
                peer, _ = server.accept()
                with peer:
                    peer.settimeout(2)
                    return None if peer.recv(1) == b"x" else "127.0.0.1 returned nothing"
    except OSError as error:
        return f"cannot connect to 127.0.0.1: {error}"
