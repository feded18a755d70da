"""Arms, the main table, ablations, cost and classes: what a paper would print of runs and
evaluations.
"""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.reporting.tree import make_evaluation, make_run, make_tree
from tspo_cli import runs
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.reporting.page.curves import figures
from tspo_cli.reporting.rendering.render import render
from tspo_cli.reporting.rendering.table import Format, Table
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.sources.arms import find_arm, group_arms
from tspo_cli.reporting.sources.published import SETS, choose_published, read_published
from tspo_cli.reporting.sources.run_view import open_runs

QUESTIONS = 60


def items(seed: int, share: float, n: int = QUESTIONS) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    found = []
    for index in range(n):
        em = float(draw.random() < share)
        turn = {"kind": "answer", "text": "<answer> x </answer>", "tokens": 4}
        turn |= {"passages": [], "feedback": ""}
        item = {"id": f"q{index}", "question": f"q{index}?", "golden_answers": ["y"]}
        rollout = {"sample": 0, "answer": "x", "failed": False, "turns": [turn]}
        found.append(item | {"em": em, "f1": em / 2, "trajectory": rollout})
    return found


@pytest.fixture(scope="module")
def evals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods on three sets, each set in a folder of its own as different indexes need it."""
    root = tmp_path_factory.mktemp("evals")
    for number, (method, share) in enumerate([("direct", 0.2), ("rag", 0.45), ("search_r1", 0.75)]):
        for place, dataset in enumerate(("musique", "nq", "popqa")):
            own = items(10 * number + place, share, QUESTIONS * (3 if dataset == "popqa" else 1))
            make_evaluation(root / method / dataset, method, own, dataset=dataset)
    return root


def texts(table: Table) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def seeded(root: Path, algorithm: str, seed: int, end: float, **optimizer: float) -> None:
    config = {
        "seed": seed,
        "credit": {"algorithm": algorithm},
        "train": {"steps": 4},
        "optimizer": optimizer,
    }
    lr = f"-{optimizer['lr']:g}" if optimizer else ""
    make_run(
        root / f"{algorithm}{lr}-{seed}", Config.model_validate(config), 4, {0: 0.1, 2: 0.2, 4: end}
    )


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seeds")
    for seed, (grpo, tspo) in enumerate([(0.2, 0.5), (0.3, 0.6), (0.25, 0.4)]):
        seeded(root, "grpo", seed, grpo)
        seeded(root, "tspo", seed, tspo)
    seeded(root, "tspo", 0, 0.3, lr=0.5)
    return root


def test_seeds_become_one_arm_and_settings_tell_arms_apart(seeds: Path) -> None:
    arms = group_arms(open_runs([seeds]))
    assert [(arm.label, len(arm.views)) for arm in arms] == [
        ("grpo", 3),
        ("tspo (lr=1e-06)", 3),
        ("tspo (lr=0.5)", 1),
    ]
    merged = group_arms(open_runs([seeds]), ignore=["optimizer.lr"])
    assert sorted(len(arm.views) for arm in merged) == [1, 1, 1, 1, 3], (
        "one seed twice is no seed of one arm"
    )


def test_arms_that_differ_in_many_settings_are_told_apart_by_their_runs(tmp_path: Path) -> None:
    """A demo beside one's own run had rows of 300 columns, and no page showed their scores."""
    seeded(tmp_path, "tspo", 0, 0.3)
    seeded(tmp_path, "tspo", 1, 0.4)
    config = Config.model_validate(
        {
            "model": {"path": "models/of_ours"},
            "data": {"train": ["questions/of_ours/train.jsonl"]},
            "rollout": {"max_searches": 2, "max_new_tokens": 64},
        }
    )
    make_run(tmp_path / "ours", config, 2, {2: 0.5})
    seeded(tmp_path, "grpo", 0, 0.2)
    arms = group_arms(open_runs([tmp_path]))
    assert {arm.label for arm in arms} == {"grpo", "tspo [ours]", "tspo [tspo-0 and 1 more]"}
    assert find_arm(arms, "tspo [ours]") is find_arm(arms, "ours")


def test_a_baseline_is_found_by_label_algorithm_or_run(seeds: Path) -> None:
    arms = group_arms(open_runs([seeds]))
    assert find_arm(arms, "tspo-1").label == "tspo (lr=1e-06)"
    assert find_arm(arms, "grpo") is arms[0]
    with pytest.raises(MissingResourceError, match="several have it: tspo"):
        find_arm(arms, "tspo")
    with pytest.raises(MissingResourceError, match="there are: grpo"):
        find_arm(arms, "ppo")


def test_sets_of_one_method_are_one_row_in_the_order_of_papers(evals: Path) -> None:
    table = RunReport(open_runs([evals])).table("main")
    assert [column.heading for column in table.columns] == [
        "method",
        "nq",
        "popqa",
        "musique",
        "avg",
        "avg by question",
    ]
    assert list(texts(table)) == ["direct", "rag", "search_r1"]
    own = {name: [item["em"] for item in items(10 + place, 0.45, n)] for place, (name, n) in
           enumerate([("musique", 60), ("nq", 60), ("popqa", 180)])}  # fmt: skip
    macro = np.mean([np.mean(own[name]) for name in own])
    weighted = np.mean(np.concatenate(list(own.values())))
    expected = [np.mean(own["nq"]), np.mean(own["popqa"]), np.mean(own["musique"]), macro, weighted]
    assert texts(table)["rag"] == [f"{100 * value:.1f}" for value in expected]


def test_best_and_second_are_marked_in_every_column(evals: Path) -> None:
    rows = RunReport(open_runs([evals])).table("main").rows
    assert all(cell.best and not cell.second for cell in rows[2][1:])
    assert all(cell.second and not cell.best for cell in rows[1][1:])
    assert not any(cell.best or cell.second for cell in rows[0])


def test_letters_follow_the_paired_test_after_holm(evals: Path) -> None:
    report = RunReport(open_runs([evals]), baselines=["rag", "direct"])
    table = report.table("main")
    record = {one["method"]: one for one in table.records}
    for method, row in zip(("direct", "rag", "search_r1"), table.rows, strict=True):
        for dataset, cell in zip(("nq", "popqa", "musique"), row[1:4], strict=True):
            expected = ""
            for letter, baseline in (("a", "rag"), ("b", "direct")):
                found = record[method]["against"].get(baseline, {}).get(dataset)
                if found and found["p_holm"] < 0.05:
                    expected += letter if found["difference"] > 0 else f"-{letter}"
            assert cell.letters == expected
    assert [cell.letters for cell in table.rows[2][1:4]] == ["ab"] * 3
    weakest = max(
        one["against"]["rag"]["nq"]["detectable"] for one in table.records if one["method"] != "rag"
    )
    assert any(
        f"from rag shown with 80 % power, in points: nq {100 * weakest:.1f}, " in note
        for note in table.notes
    )
    assert "-a" in [cell.letters for cell in table.rows[0][1:4]]


def test_p_values_are_scipys_on_the_same_items(evals: Path) -> None:
    found = (
        RunReport(open_runs([evals]), baselines=["rag"]).table("main").records[2]["against"]["rag"]
    )
    raw = {}
    for place, (dataset, n) in enumerate([("musique", 60), ("nq", 60), ("popqa", 180)]):
        mine, theirs = (
            [item["em"] for item in items(seed + place, share, n)]
            for seed, share in ((20, 0.75), (10, 0.45))
        )
        won = sum(a > b for a, b in zip(mine, theirs, strict=True))
        lost = sum(a < b for a, b in zip(mine, theirs, strict=True))
        raw[dataset] = stats.binomtest(won, won + lost).pvalue
        assert found[dataset]["p_mcnemar"] == pytest.approx(raw[dataset])
        assert found[dataset]["difference"] == pytest.approx(np.mean(mine) - np.mean(theirs))
        # On yes/no scores the permutation test is McNemar's, up to its random draws.
        assert found[dataset]["p"] == pytest.approx(raw[dataset], abs=0.01)
    by_size = sorted(raw, key=raw.__getitem__)
    first, second = by_size[0], by_size[1]
    assert found[first]["p_mcnemar_holm"] == pytest.approx(3 * raw[first])
    assert found[second]["p_mcnemar_holm"] == pytest.approx(max(3 * raw[first], 2 * raw[second]))


def test_seeds_count_in_means_and_intervals(seeds: Path) -> None:
    table = RunReport(open_runs([seeds]), baselines=["grpo"]).table("main")
    assert [column.heading for column in table.columns] == [
        "method",
        "seeds",
        "test",
        "gain over grpo",
    ]
    shown = texts(table)
    assert shown["grpo"] == ["3", "25.0", ""]
    assert shown["tspo (lr=1e-06)"] == ["3", "50.0", "+100.0 %"]
    assert table.rows[1][2].below.startswith("[")
    assert not any(
        cell.below
        for row in RunReport(open_runs([seeds]), intervals=False).table("main").rows
        for cell in row
    )
    record = table.records[1]["sets"]["test"]
    assert (record["seeds"], record["questions"]) == (3, 40)
    one_seed = RunReport(open_runs([seeds / "tspo-1"])).table("main").records[0]["sets"]["test"]
    assert record["high"] - record["low"] > one_seed["high"] - one_seed["low"], "seeds add doubt"
    assert not any("One seed" in note for note in table.notes)


def test_another_metric_and_one_that_is_not_there(evals: Path) -> None:
    em, f1 = (
        RunReport(open_runs([evals]), metric=metric).table("main").records[0]
        for metric in ("em", "f1")
    )
    assert f1["sets"]["nq"]["mean"] == pytest.approx(em["sets"]["nq"]["mean"] / 2)
    with pytest.raises(InvalidInputError, match="not every item has a number under 'bleu'"):
        RunReport(open_runs([evals]), metric="bleu").table("main")


def test_the_main_table_needs_items(tmp_path: Path) -> None:
    make_run(tmp_path / "new", Config(), 2, {})
    with pytest.raises(UsageError, match="nothing to put into this table"):
        RunReport(open_runs([tmp_path])).table("main")


def test_main_csv_has_one_value_per_cell(evals: Path) -> None:
    report = RunReport(open_runs([evals]), baselines=["rag"])
    rows = list(csv.DictReader(io.StringIO(render([report.table("main")], Format.csv))))
    record = report.table("main").records[2]
    assert float(rows[2]["nq"]) == record["sets"]["nq"]["mean"]
    assert float(rows[2]["nq_minus_rag"]) == record["against"]["rag"]["nq"]["difference"]
    assert float(rows[2]["macro_low"]) == record["macro"]["low"]


def test_published_rows_stand_apart(evals: Path) -> None:
    published = choose_published(read_published(), ["2503.09516v5 base PPO 7B"], "em")
    table = RunReport(open_runs([evals]), published=published).table("main")
    assert table.quoted == frozenset({3})
    quoted = table.rows[3]
    assert [cell.text for cell in quoted] == [
        "Search-R1 base PPO, 7B",
        "48.0",
        "45.7",
        "19.6",
        "",
        "",
    ]
    assert quoted[0].letters == "†S"
    assert not any(cell.best or cell.second for cell in quoted), (
        "what was not measured here is not ranked"
    )
    assert any("not measured here" in note and "second-hand" in note for note in table.notes)
    assert any("2503.09516" in note for note in table.notes)
    assert [one["published"] for one in table.records] == [False, False, False, True]
    assert "\\midrule\n\\textit{Search-R1 base PPO, 7B}" in render([table], Format.latex)


def test_published_rows_need_words_that_fit_and_sets_that_were_measured(
    evals: Path, seeds: Path
) -> None:
    rows = read_published()
    with pytest.raises(UsageError, match="--published nonsense"):
        choose_published(rows, ["7B", "nonsense"], "em")
    chosen = choose_published(rows, ["7B", "Search-R1 7B"], "em")
    assert len(chosen) == len(choose_published(rows, ["7B"], "em")), "no row twice"
    assert {row.metric for row in choose_published(rows, ["all"], "f1")} == {"f1"}
    with pytest.raises(UsageError, match="none of these rows has a score on test"):
        RunReport(open_runs([seeds]), published=chosen).table("main")


def test_the_file_of_published_results_is_consistent() -> None:
    rows = read_published()
    assert len(rows) > 80
    keys = [(row.method, row.size, row.metric, row.source) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        mean = sum(row.scores.values()) / len(row.scores)
        if row.average is not None and len(row.scores) == len(SETS):
            assert abs(mean - row.average) < 0.0011 or "not the mean" in row.note, row.label
    tspo = next(row for row in rows if row.method.startswith("TSPO"))
    assert set(SETS) - set(tspo.scores) == {"popqa", "hotpotqa"}
    assert (tspo.average, tspo.certainty) == (None, "S"), "no full row of TSPO is known"


@pytest.mark.parametrize(
    ("old", "new", "words"), [(",S,", ",?,", "certainty '\\?'"), ("0.134", "13.4", "'13.4'")]
)
def test_a_wrong_published_file_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = (Path(__file__).parents[2] / "data" / "published_results.csv").read_text(
        encoding="utf-8"
    )
    path = tmp_path / "mine.csv"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InvalidInputError, match=f"line 2: .*{words}"):
        read_published(path)


def test_an_ablation_shows_only_what_differs(seeds: Path) -> None:
    table = RunReport(open_runs([seeds]), baselines=["tspo-0"]).table("ablation")
    heads = [column.heading for column in table.columns]
    assert heads[:2] == ["credit.algorithm", "optimizer.lr"]
    lines = [[cell.text for cell in row] for row in table.rows]
    assert lines[0][:5] == ["tspo", "1e-06", "3", "test", "50.0"]
    assert lines[1][:2] == ["grpo", "·"]
    assert lines[1][heads.index("difference")] == "-25.0"
    assert lines[2][:3] == ["·", "0.5", "1"]
    assert table.records[1]["difference"] == pytest.approx(-0.25)
    assert table.records[1]["difference_low"] < -0.25 < table.records[1]["difference_high"]
    with pytest.raises(UsageError, match="--table ablation needs --baseline"):
        RunReport(open_runs([seeds])).table("ablation")


def test_curves_and_classes_are_means_over_seeds(seeds: Path) -> None:
    report = RunReport(open_runs([seeds]))
    curve = [one for one in report.table("curves").records if one["method"] == "grpo"]
    assert [(one["step"], one["seeds"]) for one in curve] == [(0, 3), (2, 3), (4, 3)]
    assert curve[-1]["em"] == pytest.approx(0.25)
    assert (curve[-1]["em_lowest"], curve[-1]["em_highest"]) == (0.2, 0.3)
    classes = [one for one in report.table("classes").records if one["method"] == "grpo"]
    assert [(one["first_step"], one["last_step"], one["seeds"]) for one in classes] == [
        (s, s, 3) for s in (1, 2, 3, 4)
    ]
    assert report.table("classes").rows[0][1].text == "1"
    for one in classes:
        assert sum(
            one[name] for name in ("all correct", "mixed", "all wrong with near-miss", "all miss")
        ) == pytest.approx(1)
    assert classes[-1]["all correct"] == pytest.approx(0.1)


def test_seeds_of_an_arm_are_one_line_with_a_band(seeds: Path) -> None:
    drawn = {figure.title: figure for figure in figures(group_arms(open_runs([seeds])))}
    em = drawn["Exact match on test"]
    assert [name for _, name in em.legend] == ["grpo", "tspo (lr=1e-06)", "tspo (lr=0.5)"]
    assert em.svg.count('class="band"') == 3
    assert "lowest to highest seed" in em.note
    assert "over the questions" in em.note, "one arm has a single seed"
    assert drawn["Training reward"].svg.count('class="band"') == 2
    assert len([title for title in drawn if title.startswith("Composition of groups: ")]) == 3


def test_cost_counts_searches_that_rollouts_share_once(tmp_path: Path) -> None:
    make_run(tmp_path / "tree", Config.model_validate({"train": {"steps": 2}}), 2, {2: 0.5})
    log = tmp_path / "tree" / "metrics.jsonl"
    # Two questions a step, each a tree of 3 rollouts with 2 searches, of which 4 were sent.
    step = {"rollouts": 6, "searches": 2.0, "tree/rollouts": 3.0, "tree/searches": 4.0}
    for known, sent in ((step, 16), ({**step, "tree/searches": None}, None)):
        log.write_text("".join(json.dumps({"step": at, **known}) + "\n" for at in (1, 2)))
        (record,) = RunReport(open_runs([tmp_path])).table("cost").records
        assert record["rollouts"] == 12
        assert record["training_searches"] == sent


def test_cost_counts_devices_tokens_and_searches(tmp_path: Path, evals: Path) -> None:
    config = Config.model_validate(
        {
            "train": {"steps": 4, "processes": 2},
            "rollout": {"questions_per_step": 8, "group_size": 5},
        }
    )
    make_run(tmp_path / "two", config, 4, {4: 0.5})
    runs.write_json(tmp_path / "two" / "env.json", {"gpus": ["NVIDIA H200"] * 2})
    one = RunReport(open_runs([tmp_path])).table("cost").records[0]
    assert one["device"] == "2 × NVIDIA H200"
    assert one["device_hours"] == pytest.approx(4 * 1.5 * 2 / 3600)
    assert one["rollouts"] == 4 * 8 * 5
    searches = [
        record["searches"] for record in runs.read_jsonl(tmp_path / "two" / "metrics.jsonl")
    ]
    assert one["training_searches"] == round(sum(searches) * 40)
    assert one["searches_per_question"] == 2.0
    seconds = {"mean": 0.25, "p50": 0.2, "p95": 0.4, "sum": 1.0, "items": {}}
    runs.write_json(evals / "rag" / "nq" / "timings.json", {"nq": seconds})
    table = RunReport(open_runs([evals / "rag" / "nq"])).table("cost")
    assert table.records[0]["seconds_per_question"] == 0.25
    assert table.records[0]["device_hours"] is None
    assert "seconds per question" in [column.heading for column in table.columns]


def test_a_policy_of_several_seeds_is_one_evaluated_arm(tmp_path: Path) -> None:
    for seed in (0, 1):
        seeded(tmp_path / "runs", "tspo", seed, 0.5)
        model = tmp_path / "runs" / f"tspo-{seed}" / "model"
        for method, share in (("search_r1", 0.6), ("direct", 0.1)):
            own = items(seed, share)
            make_evaluation(
                tmp_path / "evals" / f"{method}-{seed}", method, own, dataset="nq", model=str(model)
            )
    make_evaluation(
        tmp_path / "evals" / "other", "direct", items(9, 0.2), dataset="nq", model="Qwen2.5-3B"
    )
    scored = RunReport(open_runs([tmp_path / "evals"])).scored
    assert [(one.arm.label, len(one.arm.views)) for one in scored] == [
        ("direct (tspo-0)", 2), ("direct (Qwen2.5-3B)", 1), ("search_r1", 2),
    ]  # fmt: skip


def test_the_same_evaluation_twice_stays_two_rows(tmp_path: Path) -> None:
    for name in ("first", "again"):
        make_evaluation(tmp_path / name, "rag", items(1, 0.5), dataset="nq")
    labels = [arm.label for arm in group_arms(open_runs([tmp_path]))]
    assert labels == ["rag [again]", "rag [first]"]


def test_all_tables_that_are_possible(tmp_path: Path, evals: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    tables = ["rows", "main", "curves", "classes", "cost", "commands"]
    assert RunReport(open_runs([demo])).possible() == tables
    assert {"ablation", "tests"} <= set(RunReport(open_runs([demo]), baselines=["grpo"]).possible())
    assert RunReport(open_runs([evals])).possible() == ["rows", "main", "cost", "commands"]
    assert json.loads(render([RunReport(open_runs([evals])).table("cost")], Format.json))["cost"]
