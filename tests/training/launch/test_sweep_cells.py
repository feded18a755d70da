"""A sweep's command and its report take only the cells that its file describes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import run_prepared
from tests.reporting.tree import make_run
from tspo_cli import runs
from tspo_cli.commands.app import app
from tspo_cli.config.load_config import write_resolved
from tspo_cli.config.sweeps.sweep_cells import Sweep, experiment_files, read_sweep
from tspo_cli.disk import atomic_write_text
from tspo_cli.errors import InvalidInputError
from tspo_cli.reporting.scores.sweep_scores import open_sweep
from tspo_cli.reporting.sweep_report import SweepReport
from tspo_cli.training.launch.sweep_runner import (
    cell_state,
    cell_states,
    require_one_experiment,
)

TEXT = """
base = "tiny/grpo"
seeds = [0, 1]
baseline = "grpo"
[settings]
train = { steps = 4, export_model = false }
[arms.grpo]
[arms.tspo]
credit.algorithm = "tspo"
"""
CURVE = {0: 0.1, 4: 0.4}
CELLS = ("grpo/seed0", "tspo/seed0", "grpo/seed1", "tspo/seed1")


def planned(folder: Path, text: str = TEXT, *settings: str) -> Sweep:
    """The sweep of a file beside its folder."""
    file = folder.with_suffix(".toml")
    file.write_text(text)
    return read_sweep(file, settings)


def add(folder: Path, plan: Sweep, *names: str) -> None:
    """Cells as finished trainings leave them."""
    for cell in plan.cells:
        if cell.name in names:
            run = folder / cell.name
            make_run(run, cell.config, 4, CURVE)
            write_resolved(cell.config, run)
            inputs = {"questions": "abc", "experiment": cell.name}
            runs.write_json(run / runs.INPUTS_NAME, inputs)
            for step in CURVE:
                score(run, step, data="q1")


def score(run: Path, step: int, *, data: str = "", n: int = 40) -> None:
    path = runs.scores_file(runs.eval_folder(run, step), "test")
    digests = {"digests": {"data": data}} if data else {}
    runs.write_json(path, runs.read_json(path) | {"n": n} | digests)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A finished sweep of two arms and two seeds."""
    folder = tmp_path / "mine"
    plan = planned(folder)
    add(folder, plan, *CELLS)
    runs.write_json(folder / "sweep.json", plan.record())
    for path, text in experiment_files(plan, folder / "configs").items():
        path.parent.mkdir(exist_ok=True)
        atomic_write_text(path, text)
    return folder


def copied(source: str, place: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / place)
        shutil.copytree(folder / source, folder / place)

    return change


def retrained(name: str, *settings: str) -> Callable[[Path], None]:
    """The cell of a sweep with other settings in the place of a cell."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder / name)
        add(folder, planned(folder, TEXT, *settings), name)

    return change


def other_inputs(folder: Path) -> None:
    runs.write_json(folder / "tspo/seed1" / runs.INPUTS_NAME, {"questions": "def"})


def other_questions(folder: Path) -> None:
    score(folder / "tspo/seed1", 4, data="q2")


def fewer_questions(folder: Path) -> None:
    score(folder / "tspo/seed1", 4, n=20)


MIXED: dict[str, tuple[Callable[[Path], None], str]] = {
    "another seed": (copied("grpo/seed0", "grpo/seed1"), r"grpo/seed1: .*seed \(0, there 1\)"),
    "another arm": (copied("grpo/seed0", "tspo/seed0"), "tspo/seed0: .*credit.algorithm"),
    "other settings": (retrained("grpo/seed1", "optimizer.lr=0.5"), "grpo/seed1: .*optimizer.lr"),
    "data": (other_inputs, "tspo/seed1: began with other training questions"),
    "limit": (retrained("tspo/seed1", "eval.limit=3"), r"eval.limit \(3, there 0\)"),
    "curve": (retrained("tspo/seed1", "eval.every=1"), "eval.every"),
    "questions": (
        other_questions,
        "was evaluated at step 4 on other questions of test",
    ),
    "number": (fewer_questions, r"on other questions of test \(20 questions"),
}


@pytest.mark.parametrize("change", MIXED)
def test_a_report_does_not_mix_experiments(sweep: Path, change: str) -> None:
    """Nor does the same command go on with them; the tables of single runs and doctor say why."""
    make, words = MIXED[change]
    assert len(open_sweep(sweep).runs) == 4
    require_one_experiment(planned(sweep), sweep)
    make(sweep)
    with pytest.raises(InvalidInputError, match=words):
        open_sweep(sweep)
    with pytest.raises(InvalidInputError):
        require_one_experiment(planned(sweep), sweep)


def test_an_evaluation_of_another_cell_is_refused(sweep: Path) -> None:
    """The whole folder was copied, so that its digests fit."""
    run = sweep / "tspo/seed0"
    runs.write_json(run / runs.INPUTS_NAME, {"experiment": "a"})
    (path,) = runs.scores_files(runs.eval_folder(run, 4))
    runs.write_json(path, runs.read_json(path) | {"digests": {"experiment": "a"}})
    open_sweep(sweep)
    runs.write_json(path, runs.read_json(path) | {"digests": {"experiment": "b"}})
    with pytest.raises(InvalidInputError, match="evaluation of step 4 is one of another run"):
        open_sweep(sweep)


@pytest.mark.parametrize("change", ["another seed", "another arm", "other settings"])
def test_without_experiment_files_cells_are_compared_with_each_other(
    sweep: Path, change: str
) -> None:
    shutil.rmtree(sweep / "configs")
    open_sweep(sweep)
    MIXED[change][0](sweep)
    with pytest.raises(InvalidInputError, match="holds another experiment"):
        open_sweep(sweep)


def test_tables_of_runs_and_doctor_name_what_is_mixed(sweep: Path) -> None:
    whole = CliRunner().invoke(app, ["doctor", str(sweep)])
    assert "ok       comparison" in whole.stdout
    assert "4 of 4 cells have a run\n" in whole.stdout
    copied("grpo/seed0", "grpo/seed1")(sweep)
    (sweep / "tspo/seed0/metrics.jsonl").write_text("{\n")
    done = CliRunner().invoke(app, ["doctor", str(sweep), "--json"])
    assert done.exit_code == 1
    found = [(one["name"], one["detail"]) for one in json.loads(done.stdout)["findings"]]
    assert any(name == "comparison" and "seed (0, there 1)" in said for name, said in found)
    assert any(name == "tspo/seed0" and "metrics.jsonl" in said for name, said in found)
    (sweep / "tspo/seed0/metrics.jsonl").write_bytes(
        (sweep / "tspo/seed1/metrics.jsonl").read_bytes()
    )
    table = CliRunner().invoke(app, ["report", str(sweep), "--table", "curves"])
    assert table.exit_code == 0
    assert "grpo/seed1: holds another experiment" in table.stderr


def test_doctor_says_how_a_sweep_goes_on(sweep: Path) -> None:
    status = sweep / "tspo/seed0" / runs.STATUS_NAME
    runs.write_json(status, runs.read_json(status) | {"state": "stopped"})
    done = CliRunner().invoke(app, ["doctor", str(sweep)])
    said = "4 of 4 cells have a run; the same `tspo sweep` trains what is not finished"
    assert said in " ".join(done.stdout.split())
    assert "with the same `tspo sweep`" in done.stdout
    assert "--resume" not in done.stdout


def test_doctor_says_how_a_cell_is_trained_anew(sweep: Path) -> None:
    """`tspo sweep` has no --overwrite."""
    status = sweep / "tspo/seed0" / runs.STATUS_NAME
    runs.write_json(status, runs.read_json(status) | {"step": 3})
    done = CliRunner().invoke(app, ["doctor", str(sweep)])
    assert "move its folder elsewhere, and the same `tspo sweep` trains it anew" in done.stdout
    assert "--overwrite" not in done.stdout


def test_a_sweep_that_is_refused_does_not_say_that_it_trains(sweep: Path) -> None:
    (sweep / "sweep.json").unlink()
    done = CliRunner().invoke(app, ["sweep", str(sweep.with_suffix(".toml")), "--out", str(sweep)])
    assert isinstance(done.exception, InvalidInputError)
    assert "at a time" not in done.output


def test_earlier_records_are_reported(sweep: Path) -> None:
    """Keys that one of both lacks, and evaluations without a digest, are of other versions."""
    run = sweep / "tspo" / "seed1"
    config = runs.read_json(run / "config.resolved.json")
    del config["loss"]["dual_clip"]
    del config["eval"]["at_start"]
    (run / "digests.jsonl").unlink()
    runs.write_json(run / "config.resolved.json", config)
    for step in CURVE:
        path = runs.scores_file(runs.eval_folder(run, step), "test")
        runs.write_json(path, {k: v for k, v in runs.read_json(path).items() if k != "digests"})
    assert len(open_sweep(sweep).runs) == 4


def test_a_part_of_the_sweep_does_not_go_on_as_another_experiment(sweep: Path) -> None:
    """`--only` leaves out the cells that would be refused: they are of the comparison, too."""
    shutil.rmtree(sweep / "tspo")
    plan = planned(sweep, TEXT, "optimizer.lr=0.5")
    with pytest.raises(InvalidInputError, match=r"grpo/seed0: holds another.*optimizer\.lr"):
        require_one_experiment(plan, sweep)
    changed = planned(sweep, TEXT + "optimizer.lr = 0.5\n")
    require_one_experiment(changed, sweep)  # of the arm without runs alone


def test_a_cell_that_has_not_begun_may_change(sweep: Path) -> None:
    run = sweep / "tspo" / "seed1"
    for name in ("eval", "metrics.jsonl"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    runs.set_status(run, "failed", 0, 1)
    plan = planned(sweep, TEXT + 'model.path = "elsewhere"\n')
    shutil.rmtree(sweep / "tspo" / "seed0")
    require_one_experiment(plan, sweep)
    assert {cell.name: cell_state(cell, sweep) for cell in plan.cells} == {
        "grpo/seed0": "finished",
        "grpo/seed1": "finished",
        "tspo/seed0": "new",
        "tspo/seed1": "failed",
    }


def test_a_damaged_cell_is_not_finished(sweep: Path) -> None:
    cell = next(cell for cell in planned(sweep).cells if cell.name == "tspo/seed1")
    run = sweep / cell.name
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(InvalidInputError, match=r"expected 4 steps, .* got 3; put back a copy"):
        cell_state(cell, sweep)
    shutil.rmtree(run)
    run.touch()
    with pytest.raises(InvalidInputError, match="is no directory"):
        cell_state(cell, sweep)


def test_without_its_record_a_sweep_is_refused(sweep: Path) -> None:
    (sweep / "sweep.json").unlink()
    with pytest.raises(InvalidInputError, match=r"has no sweep\.json.*put back a copy"):
        require_one_experiment(planned(sweep), sweep)


def test_what_a_mean_lacks_is_named(sweep: Path) -> None:
    shutil.rmtree(sweep / "grpo/seed0/eval/step_000004")
    shutil.rmtree(sweep / "tspo/seed1/eval")
    report = SweepReport(open_sweep(sweep))
    assert report.messages() == [
        "1 cell is finished without an evaluation and left out: tspo/seed1",
        "grpo/seed0: has no evaluation at step 4, and the mean of grpo leaves it out",
    ]
    assert [group.em.n for group in report.groups] == [1, 1]


def test_questions_that_were_edited_stop_the_next_training_only(sweep: Path) -> None:
    plan = planned(sweep)
    assert set(cell_states(plan, plan.cells, sweep, lambda _: {"test": "q2"}).values()) == {
        "finished"
    }
    shutil.rmtree(sweep / "tspo" / "seed1")
    with pytest.raises(InvalidInputError, match=r"grpo/seed0: .*digest was q1, now q2; put back"):
        cell_states(plan, plan.cells, sweep, lambda _: {"test": "q2"})
    for now in ({"test": "q1"}, {"other": "q2"}):
        assert cell_states(plan, plan.cells, sweep, lambda _, now=now: now)["tspo/seed1"] == "new"


ENDS = {
    "killed": (-9, "seed0 2/4\n", "was killed by SIGKILL, for example because memory ran out"),
    "stopped": (143, "SIGTERM: stopped after step 2\n", "was stopped by SIGTERM"),
    "warned after": (3, "error: no such key\nW1 socket.cpp] gone\n", "exit code 3: no such key"),
    "said twice": (1, "error: earlier\nerror: it is full\n\n", "exit code 1: it is full"),
    "raised": (
        1,
        "Traceback (most recent call last):\n  File x\n    y\nValueError: odd\nmore\n",
        "exit code 1: ValueError: odd",
    ),
    "raised on a rank": (
        1,
        "[rank1]: Traceback (most recent call last):\n[rank1]:   File x\n[rank1]: KeyError: 7\n",
        "exit code 1: KeyError: 7",
    ),
    "unknown": (
        1,
        "step 1\nstep 2\n",
        "exit code 1: its log has no error line and ends with: step 2",
    ),
    "silent": (1, "", "exit code 1: its log is empty"),
}


def ended(tmp_path: Path, code: int, text: str, early: str = "") -> str:
    """Why the only cell of a sweep failed, whose training ended with `code` and said `text`."""
    plan, said = planned(tmp_path / "mine"), tmp_path / "said"
    said.write_text(text)
    prepare = f"tests.training.launch.ending_cells:ends:{code}:{said}:{early}"
    words = ("--out", tmp_path / "out", "--only", "grpo/seed0")
    codes, errors = run_prepared(prepare, "sweep", plan.path, *words)
    assert codes == [1], errors
    (why,) = [line for line in errors.splitlines() if line.startswith("grpo/seed0: ")]
    return why.removeprefix("grpo/seed0: ")


@pytest.mark.parametrize("end", ENDS)
def test_a_failed_cell_says_why(tmp_path: Path, end: str) -> None:
    """The last line of its log may be anything."""
    code, text, why = ENDS[end]
    assert ended(tmp_path, code, text) == why


def test_an_error_of_an_earlier_attempt_is_no_reason(tmp_path: Path) -> None:
    assert ended(tmp_path, 3, "error: no such key\n") == "exit code 3: no such key"
    assert ended(tmp_path, 1, "") == "exit code 1: its log is empty"


def test_a_cell_that_is_killed_before_its_first_word_is_no_end_of_the_sweep(tmp_path: Path) -> None:
    assert ended(tmp_path, -9, "", "early").startswith("was killed by SIGKILL")
