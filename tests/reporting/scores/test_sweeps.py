"""The report of a sweep: means over runs, pairs, intervals and p-values checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.conftest import run_tspo
from tests.reporting.tree import make_run
from tspo_cli import runs
from tspo_cli.config.schema import Config
from tspo_cli.reporting import figure
from tspo_cli.reporting.scores.sweep_scores import (
    area_under_curve,
    mean_interval,
    open_sweep,
    paired_difference,
    summaries,
)
from tspo_cli.reporting.sweep_report import SweepReport

CURVES = {
    ("grpo", 0): {0: 0.0, 10: 0.1, 20: 0.2},
    ("grpo", 1): {0: 0.0, 10: 0.2, 20: 0.4},
    ("grpo", 2): {0: 0.0, 10: 0.1, 20: 0.3},
    ("tspo", 0): {0: 0.0, 10: 0.4, 20: 0.4},
    ("tspo", 1): {0: 0.0, 10: 0.5, 20: 0.5},
    ("tspo", 2): {0: 0.0, 10: 0.6, 20: 0.6},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of two arms and three seeds, two of them in another world; one more cell has
    failed.
    """
    path = tmp_path / "mine"
    cells: list[dict[str, Any]] = []
    for (arm, seed), scores in CURVES.items():
        world = "a" if seed == 0 else "b"
        name = f"{arm}/{world}/seed{seed}"
        cells.append({"name": name, "arm": arm, "place": {"world": world}, "seed": seed})
        config = Config.model_validate(
            {"seed": seed, "credit": {"algorithm": arm}, "train": {"steps": 20}}
        )
        make_run(path / name, config, 20, scores)
    cells.append({"name": "tspo/b/seed3", "arm": "tspo", "place": {"world": "b"}, "seed": 3})
    make_run(path / "tspo/b/seed3", Config(seed=3), 5, {0: 0.9}, state="failed")
    record = {
        "file": "mine.toml",
        "baseline": "grpo",
        "axes": ["world"],
        "grid": [],
        "cells": cells,
    }
    runs.write_json(path / "sweep.json", record)
    return path


def test_statistics_by_hand() -> None:
    assert area_under_curve([(0, 0.0), (10, 0.4), (30, 0.4)]) == pytest.approx((2 + 8) / 30)
    assert area_under_curve([(0, 0.5)]) is None
    mean = mean_interval([1.0, 2.0, 3.0])
    assert mean.mean == 2
    assert mean.high == pytest.approx(
        2 + 4.302653 / 3**0.5, abs=1e-5
    )  # t quantile with 2 degrees of freedom
    assert mean_interval([0.5]).low is None
    paired = paired_difference([(3.0, 1.0), (4.0, 3.0), (5.0, 2.0)])
    assert paired.mean == 2
    assert paired.p == pytest.approx(
        0.0742, abs=1e-4
    )  # t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom
    assert paired_difference([(1.0, 1.0), (2.0, 2.0)]).p == 1.0
    assert paired_difference([(1.0, 0.5)]).p is None


def test_groups_are_compared_run_by_run(folder: Path) -> None:
    view = open_sweep(folder)
    assert view.waiting == ("tspo/b/seed3",)
    grpo, tspo = summaries(view)
    assert (grpo.arm, grpo.em.n, grpo.step, grpo.delta_em) == ("grpo", 3, 20, None)
    assert tspo.em.mean == pytest.approx(0.5)
    assert tspo.delta_em is not None
    assert tspo.delta_em.n == 3
    assert tspo.delta_em.mean == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    assert tspo.auc is not None
    assert tspo.auc.mean == pytest.approx((0.3 + 0.375 + 0.45) / 3)
    middle = summaries(view, step=10)[1]
    assert middle.em.mean == pytest.approx(0.5)
    assert middle.auc is not None
    assert middle.auc.mean == pytest.approx((0.2 + 0.25 + 0.3) / 3)


def test_a_pair_needs_the_same_seed_and_axes(folder: Path) -> None:
    record = json.loads((folder / "sweep.json").read_text())
    for cell in record["cells"]:
        if cell["arm"] == "grpo" and cell["seed"] == 2:
            cell["place"] = {"world": "a"}
    runs.write_json(folder / "sweep.json", record)
    difference = summaries(open_sweep(folder))[1].delta_em
    assert difference is not None
    assert difference.n == 2


def test_options_of_the_grid_are_told_apart(folder: Path) -> None:
    record = json.loads((folder / "sweep.json").read_text()) | {"axes": [], "grid": ["world"]}
    runs.write_json(folder / "sweep.json", record)
    found = {(row.arm, row.options["world"]): row.em.n for row in summaries(open_sweep(folder))}
    assert found == {("grpo", "a"): 1, ("grpo", "b"): 2, ("tspo", "a"): 1, ("tspo", "b"): 2}


def test_the_command_reports_a_sweep(folder: Path, tmp_path: Path) -> None:
    curves = tmp_path / "curves.svg"
    done = run_tspo("report", folder, "--format", "json", "--figure", curves)
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert {row["step"] for row in record["rows"]} == {0, 10, 20}
    assert [group["arm"] for group in record["sweep"]["groups"]] == ["grpo", "tspo"]
    assert record["sweep"]["runs"][0]["curve"] == [[0, 0.0], [10, 0.1], [20, 0.2]]
    assert "tspo/b/seed3" in done.err
    assert curves.read_text().count("tspo (3)") == 1
    for form, wanted in (
        ("md", r"| tspo | 3 | 20 | 50.0 \["),
        ("csv", "arm,"),
        ("latex", r"\toprule"),
        ("table", "tspo"),
    ):
        done = run_tspo("report", folder, "--format", form)
        assert wanted in done.out
        assert ("paired by seed and axes" in done.out) == (form != "csv"), "beside its table"
        assert "paired by seed" not in done.err


FORMS: dict[str, Any] = {
    "cells: Field required": {"cells": ...},
    "cells: Input should be a valid list": {"cells": 5},
    "cells.0: Input should be a valid dictionary": {"cells": [None]},
    "grid: Input should be a valid list": {"grid": {"a": 1}},
    "baseline: Input should be": {"baseline": ["grpo"]},
    "baseline: expected one of ": {"baseline": "grpo\nx"},
    "place: expected a value of optimizer.lr": {"grid": ["optimizer.lr"]},
    "cells.0.name: Field required": {"name": ...},
    "cells.0.arm: Input should be": {"arm": []},
    "cells.0.place: Input should be a valid dictionary": {"place": 5},
    "cells.0.place.world: Input should be": {"place": {"world": 5}},
    "cells.0.seed: Input should be a valid integer": {"seed": 1e308},
    "cell '../../runs/other': expected a name in this directory": {"name": "../../runs/other"},
    "cell '/runs/other': expected a name in this directory": {"name": "/runs/other"},
    "cell '': expected a name in this directory": {"name": ""},
    "cell 'grpo/b/seed1': expected one of this name": {"name": "grpo/b/seed1"},
    "cell 'grpo/a/seed0': expected the arm and the seed of its name": {"arm": "tspo"},
    "expected the arm and the seed of its name, got arm 'grpo' and seed 7": {"seed": 7},
}


@pytest.mark.parametrize("problem", FORMS)
@pytest.mark.parametrize("more", [(), ("--json",), ("--table", "main")])
def test_a_record_of_another_form_is_one_line(
    folder: Path, problem: str, more: tuple[str, ...]
) -> None:
    record = json.loads((folder / "sweep.json").read_text())
    ((key, value),) = FORMS[problem].items()
    place = record if key in record else record["cells"][0]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    runs.write_json(folder / "sweep.json", record)
    done = run_tspo("report", folder, *more)
    assert (done.code, done.out) == (3, "")
    assert done.err.count("\n") == 1
    assert f"{folder / 'sweep.json'}: " in done.err
    assert problem in done.err


def test_an_outage_is_named_beside_the_scores_of_a_sweep(folder: Path) -> None:
    """Also before the last evaluation: the area under the curve has them all."""
    for name in ("grpo/a/seed0", "tspo/b/seed3"):
        for step in {10, 0} & {step for step, _ in runs.eval_steps(folder / name)}:
            scores = runs.scores_file(runs.eval_folder(folder / name, step), "test")
            runs.write_json(scores, runs.read_json(scores) | {"failed": 12 if step else 0})
    report = SweepReport(open_sweep(folder))
    missing, outage = report.messages()
    assert "tspo/b/seed3" in missing
    assert outage == (
        "grpo/a/seed0: step 10: a search failed for 12 of 40 questions of test, which count as "
        "wrong"
    )
    rows = report.record()["rows"]
    assert [row["failed"] for row in rows if row["run"] == "grpo/a/seed0"] == [0, 12, None]


def test_what_is_no_file_is_no_sweep(folder: Path) -> None:
    (folder / "sweep.json").unlink()
    (folder / "sweep.json").mkdir()
    done = run_tspo("report", folder)
    assert done.code == 3
    assert "sweep.json: expected a file, got a directory; put back a copy" in done.err


def test_what_was_not_measured_is_left_out(folder: Path) -> None:
    run = folder / "grpo" / "a" / "seed0"
    scores = runs.scores_file(runs.eval_folder(run, 10), "test")
    runs.write_json(scores, runs.read_json(scores) | {"em": None})
    lines = [line | {"response_tokens": None} for line in runs.read_jsonl(run / "metrics.jsonl")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    view = open_sweep(folder)
    assert view.runs[0].curve == ((0, 0.0), (20, 0.2))
    assert view.runs[0].tokens == 0


def test_a_figure_of_few_steps_without_an_answer_has_honest_axes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps had ticks at 0.25 and 0.5, and an EM of 0 throughout had an axis up to 0.05 %."""
    sweep, kept = open_sweep(folder), list[Figure]()
    runs_of = tuple(replace(run, curve=((0, 0.0), (1, 0.0), (2, 0.0))) for run in sweep.runs)
    monkeypatch.setattr(figure, "save_figure", lambda drawn, path: kept.append(drawn))
    figure.draw_sweep(replace(sweep, runs=runs_of), tmp_path / "curves.svg")
    (axes,) = kept[0].axes
    assert all(tick == round(tick) for tick in axes.get_xticks())
    assert axes.get_ylim() == (0, 1)


def test_every_arm_is_in_the_legend_of_a_figure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """matplotlib leaves out names with an underscore in front."""
    sweep, kept = open_sweep(folder), list[Figure]()
    arms = tuple(replace(sweep.runs[0], arm=arm) for arm in ("_base", "tspo"))
    monkeypatch.setattr(figure, "save_figure", lambda drawn, path: kept.append(drawn))
    figure.draw_sweep(replace(sweep, runs=arms), tmp_path / "curves.svg")
    legend = kept[0].axes[0].get_legend()
    shown = [text.get_text().strip() for text in legend.get_texts()]
    assert [name.split()[0] for name in shown] == ["_base", "tspo"]


@pytest.mark.parametrize(
    ("name", "says"), [("日本語", "font lacks characters"), ("x" * 400, "names are too long")]
)
def test_names_that_a_figure_cannot_show_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    """A warning of matplotlib for each character, with places in its code."""
    sweep = open_sweep(folder)
    named = replace(sweep, runs=(replace(sweep.runs[0], dataset=name, arm=name),))
    figure.draw_sweep(named, tmp_path / "curves.svg")
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert "curves.svg" in line


@pytest.mark.parametrize("arms", [2, 6, 7, 15])
def test_the_legend_of_a_figure_covers_no_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arms: int
) -> None:
    """A few lines leave a corner free; more of them have their names beside the panel."""
    sweep, kept = open_sweep(folder), list[Figure]()
    one = sweep.runs[0]
    many = replace(sweep, runs=tuple(replace(one, arm=f"method_{n}") for n in range(arms)))
    monkeypatch.setattr(figure, "save_figure", lambda drawn, path: kept.append(drawn))
    figure.draw_sweep(many, tmp_path / "curves.svg")
    (drawn,) = kept
    (axes,), suptitle = drawn.axes, drawn._suptitle  # type: ignore[attr-defined]
    legend = axes.get_legend().get_window_extent()
    assert suptitle.get_text() == "mine: single runs"
    assert (legend.x0 > axes.get_window_extent().x1) == (arms > 6)
    assert legend.x1 < drawn.bbox.x1
    assert legend.y0 > drawn.bbox.y0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--baseline", "ppo"), 2, "the arms of this sweep are grpo, tspo"),
        (("--step", "7"), 4, "no finished run evaluated at step 7"),
        (("--figure", "x.gif"), 2, "ends in .svg, .png, .pdf"),
    ],
)
def test_what_cannot_be_reported(
    folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run_tspo("report", folder, *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_step_is_for_sweeps(folder: Path) -> None:
    done = run_tspo("report", folder / "grpo" / "a" / "seed0", "--step", "10")
    assert done.code == 2
    assert "for one directory of `tspo sweep`" in done.err
