"""The environment of a run: what its results depend on beside its settings."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from tspo_cli import __version__
from tspo_cli.arithmetic import arithmetic


def environment() -> dict[str, Any]:
    """Versions, commit and hardware that a result depends on."""
    names = (
        "torch",
        "transformers",
        "deepspeed",
        "tokenizers",
        "bm25s",
        "faiss-cpu",
        "vllm",
        "numpy",
    )
    # Installed metadata may be older than this code, in a checkout that was pulled.
    versions: dict[str, str | None] = {"tspo-cli": __version__}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "arithmetic": arithmetic(),
        "gpus": _gpus(),
        "git": _git_commit(),
    }


def _gpus() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _git_commit() -> str | None:
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    # A git hook sets variables that name its own repository.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            env=own,
            check=False,
        )
    except OSError:  # a checkout on a machine without git
        return None
    return done.stdout.strip() or None
