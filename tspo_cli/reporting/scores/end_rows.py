"""The result rows of a report: one per run, evaluated step and data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tspo_cli.reporting.sources.curve_data import em_interval
from tspo_cli.reporting.sources.run_view import RunView


@dataclass(frozen=True, slots=True)
class Row:
    """Scores are shares between 0 and 1; `em_low` and `em_high` bound the 95 % interval over the
    `n` items (`em_interval`).

    `searches` is a mean per item, and so is `invalid_calls`, of methods that call functions.
    `refused` counts the questions that the server of a hosted model refused. `last` marks the last
    evaluation of the run. An `evaluation` was made by `tspo eval` and has no steps (0) and no
    learning rate; its `signature` names tool, model, index, corpus and data.
    """

    run: str
    algorithm: str
    seed: int | None
    step: int
    last: bool
    dataset: str
    method: str
    n: int
    em: float | None
    em_low: float | None
    em_high: float | None
    f1: float | None
    answer_in_retrieved: float | None
    gold_recall: float | None
    searches: float | None
    invalid_share: float | None
    lr: float | None
    command: str
    evaluation: bool = False
    signature: str | None = None
    no_answer_share: float | None = None
    refused: int | None = None
    invalid_calls: float | None = None
    failed: int = 0
    """Questions that count as wrong because a search, or a request of the model, failed."""


def result_rows(views: Iterable[RunView], *, all_steps: bool = False) -> list[Row]:
    """Rows before training (step 0) and at the last evaluation of every run, or at all its
    evaluations.
    """
    return [row for view in views for row in _rows_of(view, all_steps)]


def _rows_of(view: RunView, all_steps: bool) -> list[Row]:
    evaluations = view.evaluations
    if not evaluations:
        return []
    end = max(step for step, _ in evaluations)
    steps = {step for step, _ in evaluations} if all_steps else {0, end}
    return [_row(view, step, step == end, scores) for step, scores in evaluations if step in steps]


def _row(view: RunView, step: int, last: bool, scores: dict[str, Any]) -> Row:
    n = int(scores.get("n") or 0)
    em = scores.get("em")
    low, high = em_interval(scores)
    return Row(
        run=view.name,
        algorithm=view.algorithm,
        seed=view.setting("seed"),
        step=step,
        last=last,
        dataset=str(scores.get("dataset", "")),
        method=str(scores.get("method", "")),
        n=n,
        em=em,
        em_low=low,
        em_high=high,
        f1=scores.get("f1"),
        answer_in_retrieved=scores.get("answer_in_retrieved"),
        gold_recall=scores.get("gold_recall"),
        searches=scores.get("searches"),
        invalid_share=scores.get("invalid_share"),
        no_answer_share=scores.get("no_answer_share"),
        refused=scores.get("refused"),
        invalid_calls=scores.get("invalid_calls"),
        lr=None if view.is_evaluation else view.setting("optimizer.lr"),
        command=view.command,
        evaluation=view.is_evaluation,
        signature=scores.get("signature"),
        failed=int(scores.get("failed") or 0),
    )
