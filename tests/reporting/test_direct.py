"""Every number of the tables once more from the files of the runs, with numpy, scipy and
statsmodels alone.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from tests.reporting.test_comparison import items
from tests.reporting.tree import make_evaluation, make_run
from tspo_cli.config.schema import Config
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.sources.run_view import open_runs

SIZES = {"nq": 120, "popqa": 90, "musique": 40}


@pytest.fixture(scope="module")
def evals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("direct")
    for number, (method, share) in enumerate([("rag", 0.4), ("search_r1", 0.55)]):
        for place, (dataset, n) in enumerate(SIZES.items()):
            make_evaluation(
                root / method / dataset,
                method,
                items(7 * number + place, share, n),
                dataset=dataset,
            )
    return root


@pytest.fixture(scope="module")
def report(evals: Path) -> RunReport:
    return RunReport(open_runs([evals]), baselines=["rag"])


def scores(evals: Path, method: str, dataset: str, key: str = "em") -> Any:
    with gzip.open(
        evals / method / dataset / f"{dataset}.items.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        return np.array([json.loads(line)[key] for line in lines])


def shown(report: RunReport, table: str, row: int) -> dict[str, str]:
    found = report.table(table)
    return {
        column.heading: cell.text
        for column, cell in zip(found.columns, found.rows[row], strict=True)
    }


def test_means_errors_and_intervals(evals: Path, report: RunReport) -> None:
    record = report.table("main").records[1]
    raw = {name: scores(evals, "search_r1", name) for name in SIZES}
    text = shown(report, "main", 1)
    for name, values in raw.items():
        assert record["sets"][name]["mean"] == pytest.approx(values.mean())
        assert record["sets"][name]["se"] == pytest.approx(stats.sem(values))
        assert text[name] == f"{100 * values.mean():.1f}"
        interval = stats.bootstrap(
            (values,), np.mean, method="percentile", n_resamples=4000, rng=1
        ).confidence_interval
        assert record["sets"][name]["low"] == pytest.approx(interval.low, abs=0.02)
        assert record["sets"][name]["high"] == pytest.approx(interval.high, abs=0.02)
    assert record["macro"]["mean"] == pytest.approx(
        np.mean([values.mean() for values in raw.values()])
    )
    assert record["macro"]["se"] == pytest.approx(
        np.sqrt(sum(stats.sem(values) ** 2 for values in raw.values())) / 3
    )
    assert record["by_question"]["mean"] == pytest.approx(np.concatenate(list(raw.values())).mean())
    assert text["avg"] == f"{100 * record['macro']['mean']:.1f}"


def test_differences_gains_tests_and_power(evals: Path, report: RunReport) -> None:
    by_set = {one["dataset"]: one for one in report.table("tests").records}
    pairs = {name: (scores(evals, "search_r1", name), scores(evals, "rag", name)) for name in SIZES}
    exact, permuted = [], []
    for mine, theirs in pairs.values():
        table = [[0, np.sum(mine > theirs)], [np.sum(mine < theirs), 0]]
        exact.append(float(mcnemar(table, exact=True).pvalue))
        permuted.append(
            stats.permutation_test(
                (mine - theirs,), np.mean, permutation_type="samples", n_resamples=9999, rng=2
            ).pvalue
        )
    for place, (name, (mine, theirs)) in enumerate(pairs.items()):
        record, gap = by_set[name], mine - theirs
        assert record["difference"] == pytest.approx(gap.mean())
        assert record["relative_gain"] == pytest.approx(gap.mean() / theirs.mean())
        assert record["p_mcnemar"] == pytest.approx(exact[place])
        assert record["p_mcnemar_holm"] == pytest.approx(
            multipletests(exact, method="holm")[1][place]
        )
        assert record["p"] == pytest.approx(permuted[place], abs=0.02)
        assert record["p_holm"] == pytest.approx(
            multipletests(permuted, method="holm")[1][place], abs=0.05
        )
        effect = TTestPower().solve_power(nobs=len(gap), alpha=0.05, power=0.8)
        assert record["detectable"] == pytest.approx(effect * gap.std(ddof=1))
        needed = TTestPower().solve_power(effect_size=0.03 / gap.std(ddof=1), alpha=0.05, power=0.8)
        assert record["questions_needed"] == np.ceil(needed)
    mine, theirs = (np.mean([pair[side].mean() for pair in pairs.values()]) for side in (0, 1))
    average = by_set["average"]
    assert (average["difference"], average["baseline_score"]) == (
        pytest.approx(mine - theirs),
        pytest.approx(theirs),
    )
    assert average["low"] < mine - theirs < average["high"]
    assert shown(report, "main", 1)["gain over rag"] == f"{100 * (mine - theirs) / theirs:+.1f} %"
    lines = [[cell.text for cell in row] for row in report.table("tests").rows]
    assert [line[:4] for line in lines] == [
        ["search_r1", "rag", name, str(n)]
        for name, n in (*SIZES.items(), ("average", sum(SIZES.values())))
    ]


def test_all_tables_have_the_same_interval_of_one_run(tmp_path: Path) -> None:
    make_evaluation(tmp_path / "one", "rag", items(3, 0.4, 90), dataset="nq", intervals=True)
    found = RunReport(open_runs([tmp_path]))
    (row,), (record,) = found.rows, found.table("main").records
    low, high = record["sets"]["nq"]["low"], record["sets"]["nq"]["high"]
    assert (row.em_low, row.em_high) == (pytest.approx(low), pytest.approx(high))
    assert "bootstrap" in found.table("rows").notes[0]


def test_rows_without_a_recorded_interval_have_wilsons(evals: Path, report: RunReport) -> None:
    for row in report.rows:
        values = scores(evals, row.method, row.dataset)
        assert row.em == pytest.approx(values.mean())
        low, high = proportion_confint(values.sum(), len(values), method="wilson")
        assert (row.em_low, row.em_high) == (pytest.approx(low), pytest.approx(high))


def test_what_a_score_leaves_undefined_is_left_out(tmp_path: Path) -> None:
    own = items(3, 0.5, 40)
    for place, item in enumerate(own):
        kind = ("full", "positive", "none")[place % 3]
        item |= {
            "gold_kind": kind,
            "gold_recall": None if kind == "none" else place / 40,
            "searches": place % 4,
        }
    make_evaluation(tmp_path / "rag", "rag", own, dataset="nq")
    found = (
        RunReport(open_runs([tmp_path]), metric="gold_recall")
        .table("main")
        .records[0]["sets"]["nq"]
    )
    complete = [item["gold_recall"] for item in own if item["gold_kind"] == "full"]
    assert (found["mean"], found["questions"]) == (pytest.approx(np.mean(complete)), len(complete))
    table = RunReport(open_runs([tmp_path]), metric="searches").table("main")
    assert table.rows[0][1].text == f"{np.mean([item['searches'] for item in own]):.2f}", (
        "a count is no percentage"
    )


def test_curves_classes_and_cost_are_sums_over_the_log(tmp_path: Path) -> None:
    rollout = {"questions_per_step": 8, "group_size": 5}
    for seed, end in ((0, 0.2), (1, 0.5)):
        config = Config.model_validate(
            {"seed": seed, "train": {"steps": 8, "processes": 2}, "rollout": rollout}
        )
        make_run(tmp_path / f"tspo-{seed}", config, 8, {0: 0.1, 8: end})
    report = RunReport(open_runs([tmp_path]))
    logs = [
        [
            json.loads(line)
            for line in (tmp_path / f"tspo-{seed}" / "metrics.jsonl").read_text().splitlines()
        ]
        for seed in (0, 1)
    ]
    end = report.table("curves").records[-1]
    assert (end["em"], end["em_lowest"], end["em_highest"]) == (pytest.approx(0.35), 0.2, 0.5)
    last = report.table("classes").records[-1]
    assert (last["first_step"], last["last_step"]) == (7, 8)
    wanted = np.mean(
        [record["groups/recovered_by_folr"] for log in logs for record in log if record["step"] > 6]
    )
    assert last["recovered by FOLR"] == pytest.approx(wanted)
    cost = report.table("cost").records[1]
    assert cost["training_searches"] == round(sum(record["searches"] for record in logs[1]) * 40)
    assert (cost["rollouts"], cost["device_hours"]) == (320, pytest.approx(8 * 1.5 * 2 / 3600))


def test_answers_that_are_all_alike_have_wilsons_interval(tmp_path: Path) -> None:
    make_evaluation(tmp_path / "rag", "rag", items(1, 0.0, 50), dataset="nq")
    cell = RunReport(open_runs([tmp_path])).table("main").rows[0][1]
    assert (cell.text, cell.below) == (
        "0.0",
        f"[0.0, {100 * proportion_confint(0, 50, method='wilson')[1]:.1f}]",
    )
    make_evaluation(tmp_path / "rag-popqa", "rag", items(1, 0.0, 200), dataset="popqa")
    ends = [proportion_confint(0, n, method="wilson")[1] for n in (50, 200)]
    average = RunReport(open_runs([tmp_path])).table("main").rows[0][3]
    assert (average.text, average.below) == ("0.0", f"[0.0, {100 * sum(ends) / 2:.1f}]")


def test_a_column_says_what_makes_it_unfair(tmp_path: Path) -> None:
    for method, n, corpus in (("rag", 30, "x"), ("ircot", 40, "y")):
        make_evaluation(tmp_path / method, method, items(1, 0.5, n), dataset="nq")
        path = tmp_path / method / "eval.json"
        record = json.loads(path.read_text())
        record["results"][0] |= {
            "benchmark_size": 3610,
            "digests": {"corpus": corpus, "index": corpus, "data": "d"},
        }
        path.write_text(json.dumps(record))
    notes = RunReport(open_runs([tmp_path])).table("main").notes
    assert "Questions: nq 30 to 40 of 3,610." in notes
    assert "nq: the methods did not answer the same questions." in notes
    assert "nq: the methods searched different corpora." in notes
    assert not any("different indexes" in note for note in notes), "that follows from it"
