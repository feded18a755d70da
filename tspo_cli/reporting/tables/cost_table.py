"""What runs and evaluations cost: device hours, tokens and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tspo_cli import runs
from tspo_cli.evaluation.resuming.journal import read_times
from tspo_cli.reporting.rendering.table import Column, Table, cells, number
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.run_view import RunView


def cost_table(arms: Sequence[Arm]) -> Table:
    """One line per run: what training took and what answering one question takes; then one per
    evaluated method.

    Device hours are the seconds of the training steps times the processes, each of which holds one
    GPU or one CPU core; CPU hours the processor time of the first process times their number.
    Evaluations in between are in neither.
    """
    records = [_record(view) for arm in arms if not arm.is_evaluation for view in arm.views]
    records += [_evaluated(arm) for arm in arms if arm.is_evaluation]
    shown = [
        (head, key, form)
        for head, key, form in _COLUMNS
        if any(record.get(key) is not None for record in records)
    ]
    return Table(
        name="cost",
        title="Cost",
        columns=(
            Column("run", False),
            Column("device", False),
            *(Column(head) for head, _, _ in shown),
        ),
        rows=tuple(
            cells(
                [
                    record["run"],
                    record["device"] or "",
                    *(number(record[key], form) for _, key, form in shown),
                ]
            )
            for record in records
        ),
        records=records,
        notes=(
            "Device hours: seconds of the training steps times processes (one GPU or CPU core "
            "each), evaluations left"
            " out. CPU hours: processor time of the first process in these steps, times processes.",
            "Rollout %: share of these seconds in which rollouts were sampled. Trained tokens: "
            "sampled tokens that entered the loss. Searches, training: those that rollouts share "
            "count once. Per question: means over the last evaluation.",
        ),
    )


_COLUMNS = (
    ("device hours", "device_hours", "{:.3f}"),
    ("CPU hours", "cpu_hours", "{:.3f}"),
    ("rollout %", "rollout_share", "{:.0f}"),
    ("steps", "steps", "{:,}"),
    ("rollouts", "rollouts", "{:,}"),
    ("trained tokens", "trained_tokens", "{:,}"),
    ("searches, training", "training_searches", "{:,}"),
    ("searches per question", "searches_per_question", "{:.2f}"),
    ("tokens per question", "tokens_per_question", "{:.0f}"),
    ("seconds per question", "seconds_per_question", "{:.2f}"),
)


def _rollouts(record: Mapping[str, Any], per_step: int) -> float:
    """Rollouts of a step: as many as the settings say, or those of its trees."""
    return (record.get("rollouts") or 0) if "tree/rollouts" in record else per_step


def _searches(metrics: Sequence[Mapping[str, Any]], per_step: int) -> int | None:
    """Searches that were sent, those that rollouts share once; None where a record does not say."""
    total = 0.0
    for record in metrics:
        trees = record.get("tree/rollouts")
        if not trees:
            total += (record.get("searches") or 0) * per_step
        elif (each := record.get("tree/searches")) is not None:
            total += each * record["rollouts"] / trees
        else:
            return None
    return round(total) or None


def _record(view: RunView) -> dict[str, Any]:
    timings, metrics = view.timings, view.metrics
    seconds = sum(record.get("total") or 0.0 for record in timings)
    cpu = [record.get("cpu") for record in timings]
    rollout = sum(record.get("rollout") or 0.0 for record in timings)
    processes = int(view.setting("train.processes", 1) or 1)
    per_step = 0
    if view.algorithm != "sft":
        per_step = int(view.setting("rollout.questions_per_step", 0)) * int(
            view.setting("rollout.group_size", 0)
        )
    gpus = view.environment.get("gpus")
    known = [float(seconds) for seconds in cpu if seconds is not None]
    return {
        "run": view.name,
        "algorithm": view.algorithm,
        "seed": view.setting("seed"),
        "device": f"{processes} × {gpus[0] if gpus else 'CPU core'}" if timings else None,
        "device_hours": seconds * processes / 3600 if timings else None,
        "cpu_hours": sum(known) * processes / 3600 if known and len(known) == len(cpu) else None,
        "seconds": seconds if timings else None,
        "rollout_share": 100 * rollout / seconds if rollout and seconds else None,
        "steps": len(metrics) or None,
        "rollouts": round(sum(_rollouts(record, per_step) for record in metrics)) or None,
        "trained_tokens": round(sum(record.get("tokens") or 0 for record in metrics)) or None,
        "training_searches": _searches(metrics, per_step),
        **_per_question(_last_scores(view)),
    }


def _evaluated(arm: Arm) -> dict[str, Any]:
    scores = [row for view in arm.views for row in _latencies(view)]
    training = dict.fromkeys(key for _, key, _ in _COLUMNS)
    first = arm.views[0]
    about = {
        "run": arm.label,
        "algorithm": first.algorithm,
        "seed": first.setting("seed"),
        "device": None,
    }
    return about | training | {"seconds": None} | _per_question(scores)


def _per_question(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "searches_per_question": _mean(scores, "searches"),
        "tokens_per_question": _mean(scores, "response_tokens"),
        "seconds_per_question": _mean(scores, "seconds"),
    }


def _last_scores(view: RunView) -> list[dict[str, Any]]:
    return [scores for step, scores in view.evaluations if step == view.last_step]


def _latencies(view: RunView) -> list[dict[str, Any]]:
    """The scores with the mean seconds per question, where `tspo eval` has measured them."""
    known = read_times(view.path) if (view.path / runs.EVAL_TIMINGS_NAME).exists() else {}
    return [
        scores | {"seconds": known.get(str(scores.get("dataset")), {}).get("mean")}
        for scores in _last_scores(view)
    ]


def _mean(scores: Sequence[dict[str, Any]], key: str) -> float | None:
    """Over questions, so that large data sets weigh more."""
    known = [
        (float(row[key]), int(row.get("n") or 0))
        for row in scores
        if isinstance(row.get(key), int | float)
    ]
    total = sum(n for _, n in known)
    return sum(value * n for value, n in known) / total if total else None
