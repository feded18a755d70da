"""Scores of items that are None: an unclear verdict counts as wrong, other questions are left out
and said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_tspo
from tests.reporting.tree import make_evaluation
from tspo_cli.errors import InvalidInputError
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.sources.run_view import open_runs
from tspo_cli.runs import read_jsonl_gz


def make_judged(path: Path, method: str, verdicts: list[float | None], **others: Any) -> Path:
    items = [
        {
            "id": f"q{index}",
            "question": f"q{index}?",
            "golden_answers": ["y"],
            "answer_in_retrieved": None if index < 3 else 1.0,
            "em": 0.0,
            "f1": 0.0,
            "judge": verdict,
            "judge_reply": "",
            "trajectory": {"sample": 0, "answer": "x", "failed": False, "turns": []},
        }
        for index, verdict in enumerate(verdicts)
    ]
    make_evaluation(path / method, method, items, dataset="nq")
    return path / method


UNCLEAR = [None] * 6 + [0.0] * 3 + [1.0]


@pytest.fixture
def report(tmp_path: Path) -> RunReport:
    paths = [
        make_judged(tmp_path, "rag", UNCLEAR),
        make_judged(tmp_path, "direct", [1.0] * 4 + [0.0] * 6),
    ]
    return RunReport(open_runs(paths), ["direct"], metric="judge")


def test_an_unclear_verdict_counts_as_wrong_in_every_table(report: RunReport) -> None:
    table = report.table("main")
    by_method = {record["method"]: record for record in table.records}
    assert by_method["rag"]["sets"]["nq"]["mean"] == pytest.approx(0.1)
    assert by_method["rag"]["sets"]["nq"]["questions"] == 10
    assert by_method["direct"]["sets"]["nq"]["mean"] == pytest.approx(0.4)
    notes = "\n".join(table.notes)
    assert "rag: replies of the judge that cannot be read, which count as incorrect: nq 6" in notes
    assert "--retry-refused" in notes
    (test,) = report.table("tests").records
    assert test["difference"] == pytest.approx(-0.3)
    assert test["questions"] == 10


def test_questions_without_a_metric_are_left_out_and_said(tmp_path: Path) -> None:
    folder = make_judged(tmp_path, "rag", UNCLEAR)
    report = RunReport(open_runs([folder]), metric="answer_in_retrieved")
    table = report.table("main")
    assert table.records[0]["sets"]["nq"]["questions"] == 7
    assert any("rag: questions without answer in retrieved, left out: nq 3 of 10" in note
               for note in table.notes)  # fmt: skip
    assert not any("judge" in note for note in table.notes)


def test_an_evaluation_without_a_judge_has_no_such_score(tmp_path: Path) -> None:
    (item, *_) = read_jsonl_gz(make_judged(tmp_path, "rag", UNCLEAR) / "nq.items.jsonl.gz")
    del item["judge"]
    make_evaluation(tmp_path / "cot", "cot", [item], dataset="nq")
    with pytest.raises(InvalidInputError, match="not every item has a number under 'judge'"):
        RunReport(open_runs([tmp_path / "cot"]), metric="judge").table("main")


def test_the_command_reports_what_the_evaluation_did(tmp_path: Path) -> None:
    folder = make_judged(tmp_path, "rag", UNCLEAR)
    shown = run_tspo("report", folder, "--table", "main", "--metric", "judge")
    assert shown.code == 0
    assert "10.0" in shown.out
    assert "25.0" not in shown.out
