"""Run directories of others: a record of the wrong form is one line, in every command."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.reliability.damage import edit_json
from experiments.reliability.damaged_runs import run_mutations
from tests.reporting.tree import make_tree
from tspo_cli.commands.app import app
from tspo_cli.errors import TspoError

CASES = 10


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = make_tree(tmp_path_factory.mktemp("foreign"), steps=2)
    (demo / "tspo" / "env.json").write_text('{"versions": {"torch": "2"}, "gpus": [], "git": null}')
    return demo


def commands(run: Path, other: Path) -> list[list[str]]:
    words = [
        f"report {run} {other} --table all --json",
        f"report {run} --html {run}.html",
        f"inspect {run}",
        f"inspect {run} --eval --step 0 --compare {other}",
        f"credit {run} --json",
        f"runs show {run}",
        f"runs diff {run} {other}",
    ]
    return [line.split() for line in words]


def ends(run: Path, other: Path) -> list[str]:
    """What each command ended with: `ok`, or the error, which must be of ours."""
    found = []
    for command in commands(run, other):
        error = CliRunner().invoke(app, command).exception
        expected = isinstance(error, TspoError) or (isinstance(error, OSError) and error.strerror)
        if error is not None and not expected:
            raise AssertionError(f"{' '.join(command)}: {error!r}") from error
        assert error is None or "\n" not in str(error)
        found.append("ok" if error is None else str(error))
    return found


def test_a_whole_run_is_read(tree: Path) -> None:
    assert ends(tree / "tspo", tree / "grpo") == ["ok"] * 7


@pytest.mark.parametrize("number", range(CASES))
def test_damaged_records_are_one_line(tree: Path, tmp_path: Path, number: int) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    mutation = run_mutations(run, CASES, random.Random(7))[number]
    mutation.apply(run)
    ends(run, tree / "grpo")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("metrics.jsonl", {"loss": "1.5"}, "loss: Input should be a valid number"),
        ("metrics.jsonl", {"step": -1}, "step: Input should be greater than or equal to 0"),
        ("timings.jsonl", {"total": []}, "total: Input should be a valid number"),
        ("status.json", {"warnings": "no"}, "warnings: Input should be a valid list"),
        ("config.resolved.json", {"train": 5}, "train: Input should be a valid dictionary"),
        ("eval/step_000002/test.json", {"em": float("nan")}, "em: Input should be"),
        ("eval/step_000002/test.json", {"n": 10**30}, "n: Input should be"),
        ("env.json", {"python": [[1]]}, "python: Input should be"),
        ("env.json", {"platform": 5}, "platform: Input should be"),
        ("env.json", {"cpu_count": -1}, "cpu_count: Input should be"),
        ("env.json", {"gpus": {"0": 1}}, "gpus: Input should be a valid list"),
    ],
)
def test_the_wrong_key_is_named(
    tree: Path, tmp_path: Path, file: str, change: dict[str, object], words: str
) -> None:
    run = Path(shutil.copytree(tree / "tspo", tmp_path / "tspo"))
    edit_json(run / file, lambda record: record | change)
    said = [end for end in ends(run, tree / "grpo") if end != "ok"]
    assert any(f"{run / file}: not a record of tspo: {words}" in text for text in said), said
