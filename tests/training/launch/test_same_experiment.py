"""Options of algorithms that a run does not use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.training.launch.same_experiment import check_same_experiment

USER_CODE = "def rule(trajectories, config):\n    return [[config.siop.eta]]\n"


def load(*settings: str) -> Config:
    return load_config([], ["kind=rl", *settings])


@pytest.mark.parametrize("algorithm", ["grpo", "igpo", "at2po"])
def test_options_of_other_algorithms_may_change(algorithm: str, tmp_path: Path) -> None:
    before = load(f"credit.algorithm={algorithm}")
    now = load(f"credit.algorithm={algorithm}", "credit.siop.eta=1", "credit.tips.teacher=policy")
    changes = check_same_experiment(before, now, tmp_path)
    assert sorted(changes) == ["credit.siop.eta", "credit.tips.teacher"]


@pytest.mark.parametrize("algorithm", ["siop", "code"])
def test_options_that_are_read_may_not(algorithm: str, tmp_path: Path) -> None:
    """A function of the user's own gets all of [credit]."""
    if algorithm == "code":
        (tmp_path / "mine.py").write_text(USER_CODE)
        algorithm = f"{tmp_path}/mine.py:rule"
    before = load(f"credit.algorithm={algorithm}")
    now = load(f"credit.algorithm={algorithm}", "credit.siop.eta=1")
    with pytest.raises(InvalidInputError, match=r"credit\.siop\.eta \(was 5\.0, now 1\.0\)"):
        check_same_experiment(before, now, tmp_path)


def test_another_algorithm_is_another_experiment(tmp_path: Path) -> None:
    before, now = load("credit.algorithm=siop"), load("credit.algorithm=grpo", "credit.siop.eta=1")
    with pytest.raises(InvalidInputError, match=r"credit\.algorithm \(was .siop., now .grpo.\)"):
        check_same_experiment(before, now, tmp_path)
