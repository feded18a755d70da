"""Rows, intervals and differences against a baseline."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reporting.tree import QUESTIONS, make_tree
from tspo_cli import runs
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.evaluation.statistics.estimates import wilson
from tspo_cli.evaluation.statistics.paired_tests import mcnemar_p
from tspo_cli.reporting.scores.baseline import differences
from tspo_cli.reporting.scores.end_rows import result_rows
from tspo_cli.reporting.sources.run_view import open_runs, unfinished


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"), steps=4)


def test_rows_are_step_zero_and_the_end_of_every_run(demo: Path) -> None:
    rows = result_rows(open_runs([demo]))
    assert [(row.run, row.algorithm, row.seed, row.step) for row in rows] == [
        ("grpo", "grpo", 1, 0),
        ("grpo", "grpo", 1, 4),
        ("tspo", "tspo", 1, 0),
        ("tspo", "tspo", 1, 4),
        ("tspo-b", "tspo", 2, 0),
        ("warmstart", "sft", 0, 100),
    ]
    end = rows[3]
    assert (end.em, end.n, end.dataset, end.lr) == (0.4, QUESTIONS, "test", 2e-4)
    assert end.command == "tspo train tspo.toml --out runs/tspo"
    assert [row.last for row in rows] == [False, True, False, True, True, True]


def test_all_steps(demo: Path) -> None:
    assert [row.step for row in result_rows(open_runs([demo / "grpo"]), all_steps=True)] == [
        0,
        2,
        4,
    ]


def test_names_are_relative_to_what_the_arguments_share(demo: Path) -> None:
    assert open_runs([demo.parent])[0].name == "demo/grpo"
    assert [view.name for view in open_runs([demo / "tspo"])] == ["tspo"]
    assert [view.name for view in open_runs([demo / "tspo", demo / "grpo", demo / "tspo"])] == [
        "tspo",
        "grpo",
    ]


def test_a_run_in_progress_is_said_and_does_not_break_the_report(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    with open(demo / "tspo-b" / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"step": 3, "rew')
    (demo / "grpo" / "status.json").unlink()
    views = open_runs([demo])
    assert len(result_rows(views)) == 6
    assert len(views[2].metrics) == 2
    assert [message.split(";")[0] for message in unfinished(views)] == [
        "grpo: unknown",
        "tspo-b: running at step 2 of 4",
    ]


@pytest.mark.parametrize(
    "name", ["config.resolved.json", "status.json", "eval/step_000004/test.json"]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    demo = make_tree(tmp_path, steps=4)
    (demo / "grpo" / name).write_text("[1]", encoding="utf-8")
    with pytest.raises(
        InvalidInputError, match=f"{Path(name).name}: expected a JSON object, found list"
    ):
        result_rows(open_runs([demo]))


@given(n=st.integers(1, 500), data=st.data())
def test_wilson_holds_the_share_and_is_symmetric(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    low, high = wilson(correct / n, n)
    other_low, other_high = wilson((n - correct) / n, n)
    assert -1e-12 <= low <= correct / n + 1e-12
    assert correct / n - 1e-12 <= high <= 1 + 1e-12
    assert low == pytest.approx(1 - other_high, abs=1e-9)
    assert high == pytest.approx(1 - other_low, abs=1e-9)


def test_wilson_reference_values() -> None:
    # By hand from Wilson (1927): 10 of 40 with z = 1.959964.
    assert wilson(0.25, 40) == (pytest.approx(0.14187, abs=1e-4), pytest.approx(0.40194, abs=1e-4))


def test_difference_from_a_baseline_is_paired_by_item(demo: Path) -> None:
    views = open_runs([demo])
    rows = result_rows(views)
    found = dict(
        zip([(row.run, row.step) for row in rows], differences(rows, views, "grpo"), strict=True)
    )
    end = found["tspo", 4]
    assert end is not None
    assert (end.baseline, end.shared, end.delta_em) == ("grpo", QUESTIONS, pytest.approx(0.25))
    assert end.p == mcnemar_p(10, 0) == pytest.approx(2 * 0.5**10)
    assert found["grpo", 4] is None
    assert found["warmstart", 100] is None


def test_an_algorithm_with_several_runs_is_paired_by_seed(demo: Path) -> None:
    views = open_runs([demo])
    rows = result_rows(views)
    found = dict(
        zip(
            [(row.run, row.step) for row in rows],
            differences(rows, views, "warmstart"),
            strict=True,
        )
    )
    assert [found["tspo", step].delta_em for step in (0, 4)] == [0, pytest.approx(0.3)]  # type: ignore[union-attr]
    against_tspo = differences(rows, views[:3], "tspo")
    assert against_tspo[1] is not None
    assert against_tspo[1].delta_em == pytest.approx(-0.25)
    with pytest.raises(MissingResourceError, match=r"--baseline ppo: .* there are: grpo, tspo"):
        differences(rows, views, "ppo")


def test_only_shared_items_count(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    path = demo / "grpo" / "eval" / "step_000004" / "test.items.jsonl.gz"
    runs.write_jsonl_gz(path, list(runs.read_jsonl_gz(path))[:12])
    views = open_runs([demo])
    rows = result_rows(views)
    end = differences(rows, views, "grpo")[3]
    assert end is not None
    assert (end.shared, end.delta_em) == (12, pytest.approx(0.5))


def test_mcnemar_without_changes_is_no_evidence() -> None:
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(3, 9) == mcnemar_p(9, 3)
