"""A pipe, socket, device or directory that a user names as a file: one line with exit code 3."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.stand_ins import KINDS, stand_in
from tspo_cli.commands.app import app
from tspo_cli.errors import InvalidInputError
from tspo_cli.work_limits import at_most

PLAN = "plan tiny/grpo --set model.path= --set"
LINES = {
    "a.toml": [
        "plan a.toml",
        "plan b.toml",
        "config show a.toml",
        "config validate a.toml",
        "train a.toml --dry-run",
        "sweep c.sweep.toml",
    ],
    "config.toml": ["plan ./config.toml", "train ./config.toml --dry-run"],
    "config.resolved.json": ["runs show .", "credit .", "inspect ."],
    "tspo_agent.json": ["train tiny/grpo --dry-run --set model.path=."],
    "a.sweep.toml": [
        "sweep a.sweep.toml",
        "plan a.sweep.toml::tspo",
        "config show a.sweep.toml::x",
    ],
    "prompt.txt": [
        f"{PLAN} rollout.prompt=prompt.txt",
    ],
    "rule.py": [
        f"{PLAN} credit.algorithm=rule.py:f",
        "credit group.json --algorithm rule.py:f",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, lines in LINES.items() for line in lines]
)
def test_it_is_one_line_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    (tmp_path / "c.sweep.toml").write_text('base = "a.toml"\nseeds = [0]\n[arms.tspo]\n')
    stand_in(tmp_path / name, kind)
    with at_most(20):
        error = CliRunner().invoke(app, line.split()).exception
    assert isinstance(error, InvalidInputError), error
    assert f"{name}: expected a file, got {kind}; " in str(error)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a directory"])
def test_questions_are_read_from_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(tmp_path / "questions.jsonl", kind)
    with at_most(20):
        error = CliRunner().invoke(app, ["data", "check", "questions.jsonl"]).exception
    assert isinstance(error, InvalidInputError), error
    assert f"questions.jsonl: expected a file, got {kind}; " in str(error)


def test_a_recipe_may_have_the_name_of_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny" / "tspo").mkdir(parents=True)
    assert CliRunner().invoke(app, ["config", "show", "tiny/tspo"]).exit_code == 0


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="no file that fails when it is read"
)
@pytest.mark.parametrize(
    "line",
    [
        *("config validate {}", "data check {}", "sweep {}", "index build {} --out index"),
        *("data convert {} out.jsonl", "plan tiny/grpo --set rollout.prompt={}"),
    ],
)
def test_a_file_that_fails_when_it_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """As on a disk or share that has errors: its first page cannot be read."""
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, line.format("/proc/self/mem").split()).exception
    assert isinstance(error, InvalidInputError), error
    assert "/proc/self/mem: cannot be read (Input/output error)" in str(error)
