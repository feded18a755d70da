"""`tspo credit` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tspo_cli.commands.credit import credit
from tspo_cli.errors import InvalidInputError, MissingResourceError

GROUP = {
    "question": "Who wrote the [first] program?",
    "golden_answers": ["Ada Lovelace"],
    "trajectories": [
        {
            "answer": "Babbage",
            "turns": [
                {"query": "first program", "feedback": "nothing"},
                {"query": "analytical engine", "feedback": "Ada Lovelace wrote it."},
                {},
            ],
        },
        {"answer": None, "turns": [{"query": "x", "feedback": ""}, {}]},
    ],
}
app = typer.Typer()
app.command()(credit)


@pytest.fixture
def group_file(tmp_path: Path) -> Path:
    path = tmp_path / "group.json"
    path.write_text(json.dumps(GROUP), encoding="utf-8")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_json_has_the_fixed_shape(group_file: Path) -> None:
    done = run(group_file, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert set(found) == {"class", "algorithm", "level", "trajectories", "config"}
    assert (found["class"], found["algorithm"], found["level"]) == ("all-wrong with near-miss", "tspo", "turn")
    keys = {"outcome", "class", "first_occurrence", "turn_rewards", "advantages"}
    assert all(set(one) == keys for one in found["trajectories"])
    near, miss = found["trajectories"]
    assert (near["outcome"], near["class"], near["first_occurrence"]) == (0, "near-miss", 2)
    assert (miss["class"], miss["first_occurrence"]) == ("miss", None)
    assert near["turn_rewards"] == [0.5, 0.5, 0]
    assert near["advantages"] == pytest.approx([1.0954, 1.0954, -0.7303], abs=1e-4)
    assert found["config"]["gate"] == "all_wrong"


def test_settings_and_algorithm(group_file: Path) -> None:
    chosen = json.loads(run(group_file, "--json", "--set", "credit.gate=never", "--set", "credit.alpha=0.3").stdout)
    assert (chosen["config"]["gate"], chosen["config"]["alpha"], chosen["level"]) == ("never", 0.3, "none")
    assert json.loads(run(group_file, "--json", "--set", "credit.algorithm=grpo").stdout)["algorithm"] == "grpo"
    both = run(group_file, "--json", "--set", "credit.algorithm=grpo", "--algorithm", "tspo")
    assert json.loads(both.stdout)["config"]["algorithm"] == json.loads(both.stdout)["algorithm"] == "tspo"


def test_the_table_explains(group_file: Path) -> None:
    text = run(group_file).stdout
    for part in (
        "[first] program",
        "search: analytical engine",
        "first found here",
        "+1.095",
        "all-wrong with near-miss",
        "gate all_wrong is open",
        "Mean 0.2000, standard deviation 0.2739 over 5 rewards",
    ):
        assert part in text


def test_errors_have_their_exit_codes(group_file: Path, tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "absent.json").exception, MissingResourceError)
    for wrong in ("credit.gate=sometimes", "credit.gaet=always", "credit.alpha=-1"):
        assert isinstance(run(group_file, "--set", wrong).exception, InvalidInputError)
    assert isinstance(run(group_file, "--algorithm", "gpro").exception, InvalidInputError)
