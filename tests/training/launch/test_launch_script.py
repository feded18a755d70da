"""Launch scripts give every launcher the words that the user gave, whatever is in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tspo_cli.training.launch.launch_script import Launcher, launch_script

SETTINGS = ['data.train=["a b.jsonl"]', "rollout.system=it's $HOME"]


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed", "slurm"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_words_arrive_unchanged(launcher: Launcher, nodes: int, tmp_path: Path) -> None:
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name in ("torchrun", "deepspeed"):
        (stubs / name).write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    (stubs / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (stubs / "scontrol").write_text("#!/bin/bash\necho node0\n")
    for path in stubs.iterdir():
        path.chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("")
    script = launch_script(
        launcher, ["tiny/tspo"], SETTINGS, tmp_path / "run", resume=True, nodes=nodes, gpus=4
    )
    environment = {
        "PATH": f"{stubs}:/usr/bin:/bin",
        "NODE": "0",
        "HEAD": "node0",
        "SLURM_NODEID": "1",
    }
    environment["SLURM_JOB_NODELIST"] = "node[0-1]"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    wanted = [
        "train",
        "tiny/tspo",
        "--set",
        SETTINGS[0],
        "--set",
        SETTINGS[1],
        "--out",
        str(tmp_path / "run"),
        "--resume",
    ]
    assert words[-len(wanted) - 1 :] == ["tspo_cli", *wanted]
    assert "4" in words
