"""Legal evaluations whose numbers would look valid and are not: other questions under the same ids,
one question, none, counts that are all alike.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.test_comparison import items
from tests.reporting.tree import make_evaluation
from tspo_cli import runs
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.evaluation.sets import shared_questions
from tspo_cli.record_digests import changing
from tspo_cli.reporting.inspect.selection import pairs
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.sources.run_view import open_runs
from tspo_cli.reporting.sources.trajectories import read_groups, sources


def others(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same ids, as questions without ids get them, and other questions."""
    return [item | {"question": f"another {item['question']}"} for item in own]


def report(root: Path, own: Any, theirs: Any, metric: str = "em") -> RunReport:
    make_evaluation(root / "rag", "rag", own, dataset="dev", intervals=True)
    make_evaluation(root / "ircot", "ircot", theirs, dataset="dev", intervals=True)
    return RunReport(open_runs([root]), baselines=["ircot"], metric=metric)


def test_other_questions_under_the_same_ids_are_not_paired(tmp_path: Path) -> None:
    own = items(1, 0.8, 40)
    found = report(tmp_path, own, others(items(2, 0.2, 40)))
    assert all("minus" not in key for row in found.table("main").records for key in row)
    with pytest.raises(UsageError, match="shares items"):
        found.table("tests")
    views = open_runs([tmp_path])
    groups = [list(read_groups(view, sources(view)[0])) for view in views]
    with pytest.raises(MissingResourceError, match="no question in common"):
        pairs(*groups)


def test_how_many_questions_a_difference_is_of_is_said(tmp_path: Path) -> None:
    own, theirs = items(1, 0.8, 40), items(1, 0.2, 40)
    found = report(tmp_path, own, theirs[:10] + others(theirs[10:]))
    (record,) = [row for row in found.table("tests").records if row["dataset"] == "dev"]
    assert record["questions"] == 10
    views = open_runs([tmp_path])
    groups = [list(read_groups(view, sources(view)[0])) for view in views]
    assert len(pairs(*groups)) == 10


def test_an_id_that_two_sources_of_a_data_set_have_is_two_questions(tmp_path: Path) -> None:
    own = items(1, 1.0, 20)
    both = own + [item | {"em": 0.0, "question": f"another {item['id']}?"} for item in own]
    found = report(tmp_path, both, both).table("main").records
    assert [(row["sets"]["dev"]["mean"], row["sets"]["dev"]["questions"]) for row in found] == [
        (0.5, 40)
    ] * 2


def test_counts_that_are_all_alike_are_no_share(tmp_path: Path) -> None:
    own = [item | {"searches": 1} for item in items(1, 0.5, 20)]
    record = report(tmp_path, own, own, "searches").table("main").records[0]
    assert [record["sets"]["dev"][key] for key in ("mean", "low", "high")] == [1, 1, 1]


def test_one_question_is_no_certainty(tmp_path: Path) -> None:
    (own,) = items(1, 1.0, 1)
    found = report(tmp_path, [own | {"f1": 0.5}], [own | {"em": 0.0, "f1": 0.0}], "f1")
    own_record = next(row for row in found.table("main").records if row["method"] == "rag")
    score = own_record["sets"]["dev"]
    assert score["low"] < 0.5 < score["high"]
    (record,) = [row for row in found.table("tests").records if row["dataset"] == "dev"]
    assert (record["difference"], record["low"], record["high"]) == (0.5, None, None)


def test_an_evaluation_without_questions_has_no_score(tmp_path: Path) -> None:
    make_evaluation(tmp_path / "rag", "rag", items(1, 0.5, 5), dataset="dev")
    summary = tmp_path / "rag" / "eval.json"
    record = json.loads(summary.read_text("utf-8"))
    record["results"][0] |= {"n": 0, "em": None, "f1": None}
    summary.write_text(json.dumps(record))
    (tmp_path / "rag" / "dev.items.jsonl.gz").unlink()
    found = RunReport(open_runs([tmp_path]))
    assert [(row.n, row.em, row.em_low) for row in found.rows] == [(0, None, None)]
    assert "nan" not in str(found.table("rows")).lower()
    with pytest.raises(UsageError, match="no evaluation with its items"):
        found.table("main")


def test_data_sets_of_the_same_questions_are_told() -> None:
    def questions(source: str, *numbers: int) -> list[Question]:
        return [Question(str(n), f"who is {n}?", ("x",), source) for n in numbers]

    sets = {"a": questions("a", 1, 2, 3), "b": questions("b", 3, 2, 9), "c": questions("c", 7)}
    (said,) = shared_questions(sets)
    assert said == "a and b have 2 questions in common, which count twice in the averages"


@pytest.mark.parametrize(
    "wrong", [float("inf"), float("-inf"), float("nan"), 1e300, 10**400, 2**53]
)
@pytest.mark.parametrize("table", ["main", "tests"])
def test_a_count_that_no_mean_can_be_made_of_is_refused(
    wrong: float, table: str, tmp_path: Path
) -> None:
    """Of foreign records: tspo writes null where a number is not finite."""
    own = [item | {"searches": 2} for item in items(1, 0.8, 8)]
    report(tmp_path, own, own, "searches").table(table)
    lines = [json.dumps(item) + "\n" for item in [*own[1:], own[0] | {"searches": wrong}]]
    path = runs.items_file(tmp_path / "ircot", "dev")
    with changing(path):
        path.write_bytes(gzip.compress("".join(lines).encode()))
    found = RunReport(open_runs([tmp_path]), baselines=["ircot"], metric="searches")
    with pytest.raises(InvalidInputError, match=r"expected numbers below 2\^53 under 'searches'"):
        found.table(table)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    """It was said to be greater than 1."""
    own = items(1, 0.8, 40)
    make_evaluation(tmp_path / "rag", "rag", own, dataset="dev")
    place = tmp_path / "rag" / "dev.items.jsonl.gz"
    with changing(place):
        odd = [json.dumps(item) for item in [own[0], own[1] | {"em": value}]]
        place.write_bytes(gzip.compress("\n".join(odd).encode()))
    with pytest.raises(InvalidInputError, match=f"em: Input should be .*, got {value}"):
        RunReport(open_runs([tmp_path])).table("main")
