"""What a run trains on belongs to it: a resumed run has the same, down to the code of its rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.model_digest import former_digest
from tspo_cli.runs import METRICS_NAME
from tspo_cli.training.core.sequences import ScriptedTrajectory
from tspo_cli.training.start.inputs import TrainingInputs
from tspo_cli.training.start.same_inputs import input_digests, keep_or_compare_inputs

NOTHING = TrainingInputs(None, [], [])


@pytest.mark.parametrize(
    ("key", "function", "said"),
    [("algorithm", "rule", "credit.algorithm"), ("outcome", "reward", "credit.outcome")],
)
def test_a_run_is_not_resumed_with_other_code(
    tmp_path: Path, key: str, function: str, said: str
) -> None:
    code, run = tmp_path / "mine.py", tmp_path / "run"
    run.mkdir()
    (run / METRICS_NAME).touch()
    code.write_text(f"def {function}(*arguments):\n    return 1.0\n")
    config = Config.model_validate({"credit": {key: f"{code}:{function}"}})
    keep_or_compare_inputs(run, input_digests(config, NOTHING), resume=False)
    keep_or_compare_inputs(run, input_digests(config, NOTHING), resume=True)
    other = tmp_path / "other.py"  # this process has run the first one
    other.write_text(f"def {function}(*arguments):\n    return 0.0\n")
    config = Config.model_validate({"credit": {key: f"{other}:{function}"}})
    with pytest.raises(InvalidInputError, match=said):
        keep_or_compare_inputs(run, input_digests(config, NOTHING), resume=True)


def test_a_run_is_not_resumed_with_another_rubric(tmp_path: Path) -> None:
    rubric, run = tmp_path / "rubric.txt", tmp_path / "run"
    run.mkdir()
    (run / METRICS_NAME).touch()
    rubric.write_text("{question} {golden_answers} {answer}")
    judged = {"credit": {"outcome": "judge"}, "judge": {"prompt": str(rubric)}}
    config = Config.model_validate(judged)
    keep_or_compare_inputs(run, input_digests(config, NOTHING), resume=False)
    rubric.write_text("{question} {golden_answers} {answer} Be strict.")
    with pytest.raises(InvalidInputError, match=r"judge\.prompt"):
        keep_or_compare_inputs(run, input_digests(config, NOTHING), resume=True)
    unread = Config.model_validate({"judge": {"prompt": str(rubric)}})
    assert "rubric" not in input_digests(unread, NOTHING)


def test_the_demonstrations_that_are_held_out_stay_the_same(tmp_path: Path) -> None:
    """One curve of eval_loss is of the same demonstrations."""
    (tmp_path / METRICS_NAME).touch()
    config = Config.model_validate({"kind": "sft"})
    trained, held, other = (ScriptedTrajectory(name, ()) for name in "abc")

    def digests(*held_out: ScriptedTrajectory) -> dict[str, str]:
        return input_digests(config, TrainingInputs(None, [], [trained], [*held_out]))

    keep_or_compare_inputs(tmp_path, digests(held), resume=False)
    keep_or_compare_inputs(tmp_path, digests(held), resume=True)
    with pytest.raises(InvalidInputError, match=r"held-out demonstrations \(data.held_out"):
        keep_or_compare_inputs(tmp_path, digests(other), resume=True)
    keep_or_compare_inputs(tmp_path, digests(), resume=False)  # as an earlier version did
    keep_or_compare_inputs(tmp_path, digests(held), resume=True)


def test_files_of_the_working_directory_are_no_starting_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that is made anew has no path; the working directory may hold anything."""
    monkeypatch.chdir(tmp_path)
    before = input_digests(Config(), NOTHING)
    (tmp_path / "config.json").write_text("{}")
    assert input_digests(Config(), NOTHING) == before


def test_the_digest_of_an_earlier_version_is_as_good(tmp_path: Path) -> None:
    """It did not look at every file of the model; a run that recorded it goes on."""
    model, run = tmp_path / "model", tmp_path / "run"
    for folder in (model, run):
        folder.mkdir()
    (run / METRICS_NAME).touch()
    (model / "merges.txt").write_text("a b")
    config = Config.model_validate({"model": {"path": str(model)}})

    def compare(*, resume: bool, former: bool = False) -> None:
        digests = input_digests(config, NOTHING)
        if former:
            digests["model"] = former_digest(str(model))
        keep_or_compare_inputs(
            run, digests, resume=resume, former_model=lambda: former_digest(str(model))
        )

    compare(resume=False, former=True)
    compare(resume=True)
    compare(resume=False)
    (model / "merges.txt").write_text("b a")
    with pytest.raises(InvalidInputError, match="starting model"):
        compare(resume=True)


@pytest.mark.parametrize("before", [{"index": "1bd1798b42e1", "search": "{}"}, {}])
@pytest.mark.parametrize("now", [{"index": "1bd1798b42e1", "search": "{}"}, {}])
def test_passages_that_cannot_be_compared_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: dict[str, str], now: dict[str, str]
) -> None:
    """A server may not tell the digest of its index."""
    (tmp_path / METRICS_NAME).touch()
    keep_or_compare_inputs(tmp_path, {"model": "a", **before}, resume=False)
    keep_or_compare_inputs(tmp_path, {"model": "a", **now}, resume=True)
    warned = "cannot be compared with those that it began with" in capsys.readouterr().err
    assert warned is (before != now)
