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
    assert (found["class"], found["algorithm"], found["level"]) == (
        "all-wrong with near-miss",
        "tspo",
        "turn",
    )
    keys = {"outcome", "class", "first_occurrence", "turn_rewards", "advantages"}
    assert all(set(trajectory) == keys for trajectory in found["trajectories"])
    near, miss = found["trajectories"]
    assert (near["outcome"], near["class"], near["first_occurrence"]) == (0, "near-miss", 2)
    assert (miss["class"], miss["first_occurrence"]) == ("miss", None)
    assert near["turn_rewards"] == [0.5, 0.5, 0]
    assert near["advantages"] == pytest.approx([1.0954, 1.0954, -0.7303], abs=1e-4)
    assert found["config"]["gate"] == "all_wrong"


def test_settings_and_algorithm(group_file: Path) -> None:
    chosen = json.loads(
        run(group_file, "--json", "--set", "credit.gate=never", "--set", "credit.alpha=0.3").stdout
    )
    assert (chosen["config"]["gate"], chosen["config"]["alpha"], chosen["level"]) == (
        "never",
        0.3,
        "none",
    )
    assert (
        json.loads(run(group_file, "--json", "--set", "credit.algorithm=grpo").stdout)["algorithm"]
        == "grpo"
    )
    both = run(group_file, "--json", "--set", "credit.algorithm=grpo", "--algorithm", "tspo")
    assert (
        json.loads(both.stdout)["config"]["algorithm"]
        == json.loads(both.stdout)["algorithm"]
        == "tspo"
    )


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
    assert "\n\n\n" not in text


def test_errors_have_their_exit_codes(group_file: Path, tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "absent.json").exception, MissingResourceError)
    for wrong in ("credit.gate=sometimes", "credit.gaet=always", "credit.alpha=-1"):
        assert isinstance(run(group_file, "--set", wrong).exception, InvalidInputError)
    assert isinstance(run(group_file, "--algorithm", "gpro").exception, InvalidInputError)


WITHOUT_MODEL = (
    "tspo",
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "dapo",
    "gspo",
    "mt_grpo",
    "gigpo",
    "retrieval_bonus",
    "stratified_grpo",
    "cw_grpo",
    "rejection_sampling",
)


@pytest.mark.parametrize("algorithm", WITHOUT_MODEL)
def test_every_algorithm_that_needs_no_model(group_file: Path, algorithm: str) -> None:
    found = json.loads(run(group_file, "--json", "-a", algorithm).stdout)
    assert found["algorithm"] == algorithm
    turns = [len(trajectory["turns"]) for trajectory in GROUP["trajectories"]]  # type: ignore[attr-defined]
    assert [len(trajectory["advantages"]) for trajectory in found["trajectories"]] == turns
    text = run(group_file, "-a", algorithm)
    assert text.exit_code == 0
    assert "The group is all-wrong with near-miss" in text.stdout


def test_those_that_need_one_say_what(group_file: Path, tmp_path: Path) -> None:
    wanted = (
        ("ppo", "critic"),
        ("igpo", "gold_logprobs"),
        ("mig", "gold_logprobs"),
        ("carl", "critic"),
    )
    for algorithm, what in wanted:
        error = run(group_file, "-a", algorithm).exception
        assert isinstance(error, InvalidInputError)
        assert "needs a model" in str(error)
        assert what in str(error)
    measured = json.loads(group_file.read_text())
    for one, beliefs in zip(measured["trajectories"], ([-3, -3, -0.5], [-3, -4]), strict=True):
        one["gold_logprobs"] = beliefs
    group_file.write_text(json.dumps(measured))
    found = json.loads(run(group_file, "--json", "-a", "igpo").stdout)
    assert found["config"]["outcome"] == "f1", "IGPO's own default"
    assert found["trajectories"][0]["advantages"][1] > 0 > found["trajectories"][1]["advantages"][0]
    measured["trajectories"][0]["gold_logprobs"] = [-3]
    group_file.write_text(json.dumps(measured))
    assert "to be 3 log-probabilities" in str(run(group_file, "-a", "igpo").exception)


def test_a_rule_of_ones_own(group_file: Path, tmp_path: Path) -> None:
    rule = tmp_path / "mine.py"
    rule.write_text(
        "def rule(group, config):\n    return [list(trajectory.hits) for trajectory in group]\n"
    )
    found = json.loads(run(group_file, "--json", "-a", f"{rule}:rule").stdout)
    assert [trajectory["advantages"] for trajectory in found["trajectories"]] == [[0, 1, 0], [0, 0]]
    assert f"The advantages are those of {rule}:rule." in run(
        group_file, "-a", f"{rule}:rule"
    ).stdout.replace("\n", "")


def test_a_rule_of_ones_own_is_explained_in_its_own_words(group_file: Path, tmp_path: Path) -> None:
    """All were explained as "Your own rule."."""
    rule = tmp_path / "mine.py"
    rule.write_text(
        "def told(group, config):\n"
        '    """One for a turn\n    that hits.\n\n    Args: two.\n    """\n'
        "    return [list(trajectory.hits) for trajectory in group]\n\n\n"
        "def silent(group, config):\n    return told(group, config)\n"
    )
    told = run(group_file, "-a", f"{rule}:told").stdout.rstrip()
    assert told.endswith("\nOne for a turn that hits.")
    assert "Its function has no docstring." in run(group_file, "-a", f"{rule}:silent").stdout
    error = run(group_file, "-a", rule).exception
    assert isinstance(error, InvalidInputError)
    assert f"write {rule}:FUNCTION" in str(error)
