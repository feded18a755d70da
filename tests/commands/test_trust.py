"""Commands that read a run execute none of its code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tests.reporting.tree import make_run
from tspo_cli.config.schema import Config
from tspo_cli.demo.demo_commands import DemoOptions
from tspo_cli.runs import CONFIG_NAME, read_json, write_json

CODE = """
from pathlib import Path
Path(__file__).with_name("executed").touch()

def reward(answer, golds, trajectory):
    return 1.0

def rule(trajectories, config):
    return [[0.0] * trajectory.turns for trajectory in trajectories]
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Two runs whose records name code, and the file that it leaves behind when it runs."""
    (tmp_path / "evil.py").write_text(CODE)
    for name, key, function in (("reward", "outcome", "reward"), ("rule", "algorithm", "rule")):
        run = tmp_path / "runs" / name
        make_run(run, Config.model_validate({"train": {"steps": 4}}), 4, {0: 0.1, 4: 0.3})
        record = read_json(run / CONFIG_NAME)
        record["credit"][key] = f"{tmp_path / 'evil.py'}:{function}"
        write_json(run / CONFIG_NAME, record)
    return tmp_path


READING = [
    ["report", "runs", "--html", "page.html"],
    ["report", "runs", "--figure", "curves.svg"],
    ["report", "runs", "--table", "main", "--format", "json"],
    ["inspect", "runs/{run}"],
    ["inspect", "runs/{run}", "--eval"],
    ["inspect", "runs/{run}", "--compare", "runs/reward", "--eval"],
    ["runs", "ls", "runs"],
    ["runs", "show", "runs/{run}"],
    ["runs", "diff", "runs/reward", "runs/rule"],
    ["credit", "runs/{run}"],
    ["credit", "runs/{run}", "-a", "grpo"],
    ["plan", "tiny/grpo", "--rates", "runs/{run}"],
    ["doctor"],
]


@pytest.mark.parametrize("run", ["reward", "rule"])
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_executes_nothing(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], run: str
) -> None:
    monkeypatch.chdir(foreign)
    done = run_tspo(*[word.format(run=run) for word in command])
    assert not (foreign / "executed").exists()
    assert "Traceback" not in done.err
    if command[0] in ("report", "inspect", "runs"):
        assert done.code == 0, done.err


def test_code_of_a_run_is_run_where_it_is_trusted(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(foreign)
    refused = run_tspo("credit", "runs/reward", "-a", "grpo")
    assert refused.code == 3
    assert "add --trust" in refused.err
    assert run_tspo("credit", "runs/reward", "-a", "grpo", "--trust").code == 0
    assert (foreign / "executed").exists()


def test_the_rule_of_a_run_is_compared_where_it_is_trusted(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was left out without a word."""
    monkeypatch.chdir(foreign)
    without = run_tspo("credit", "runs/rule")
    assert without.code == 0, without.err
    assert "evil.py:rule, the rule of runs/rule, is Python code, so it was not run" in without.err
    assert "evil.py:rule" not in without.out
    trusted = run_tspo("credit", "runs/rule", "--trust")
    assert trusted.code == 0, trusted.err
    assert "evil.py:rule" in trusted.out
    assert " tspo " in trusted.out


def test_a_rule_of_ones_own_needs_no_flag(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(foreign)
    done = run_tspo("credit", "runs/rule", "-a", "evil.py:rule")
    assert done.code == 0, done.err
    assert (foreign / "executed").exists()


DRAW = """
from tspo_cli.reporting.figure import load_pyplot
load_pyplot()
import matplotlib
print(matplotlib.rcParams["text.usetex"])
"""


@pytest.mark.parametrize("content", [b"text.usetex: True\n", b"\xff\n", None], ids=repr)
def test_drawing_takes_no_settings_from_the_working_directory(
    tmp_path: Path, content: bytes | None
) -> None:
    """`usetex` starts a program, with a preamble that stands in the same file."""
    settings = tmp_path / "matplotlibrc"
    if content is None:
        os.mkfifo(settings)  # to open it is to wait
    else:
        settings.write_bytes(content)
    command = [sys.executable, "-P", "-c", DRAW]
    place = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | place, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


SHADOW = "open(__file__ + '.executed', 'w').close()\n"


@pytest.mark.parametrize("module", ["tspo_cli", "random"])
def test_processes_import_nothing_from_the_working_directory(tmp_path: Path, module: str) -> None:
    """`-P` is how the console script begins: without this folder where modules are looked for."""
    (tmp_path / f"{module}.py").write_text(SHADOW)
    demo = tmp_path / "demo"
    write_json(demo / "demo.json", DemoOptions(demo).record())
    (demo / "world").mkdir()
    (demo / "world" / "mine.txt").touch()
    command = [sys.executable, "-P", "-m", "tspo_cli", "demo", "--out", str(demo)]
    place = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | place, capture_output=True, text=True, check=False
    )
    assert [path.name for path in tmp_path.glob("*.executed")] == []
    assert "has other files than a world" in done.stderr
