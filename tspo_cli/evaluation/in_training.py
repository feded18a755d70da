"""Evaluation during training. `make_evaluator` gives the training loop its callback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tspo_cli.config.load_config import read_resolved
from tspo_cli.config.schema import Config
from tspo_cli.console import now_and_then, part_of
from tspo_cli.data.question import data_digest
from tspo_cli.errors import RemoteServiceError
from tspo_cli.evaluation.answering.runner import EvalSetup, evaluate_items, write_evaluation
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.methods import METHODS
from tspo_cli.evaluation.metrics import summarize
from tspo_cli.evaluation.sets import question_digests, read_eval_sets
from tspo_cli.evaluation.summary import cut_questions, search_error, with_intervals
from tspo_cli.runs import eval_folder, is_run
from tspo_cli.training.core.distributed import gather_json, rank, world_size
from tspo_cli.training.core.stop_points import local_work
from tspo_cli.training.launch.claim import has_trained
from tspo_cli.training.launch.sweep_inputs import require_same_questions
from tspo_cli.training.launch.training_run import TrainingRun
from tspo_cli.training.loop import Evaluate

AGENT_METHOD = METHODS["search_r1"]


def make_evaluator(config: Config) -> Evaluate:
    """Return the function that scores the agent on config.eval.data.

    The question files are read now, so that an invalid file is reported before training.
    """
    AGENT_METHOD.answer_form(config)
    sets = read_eval_sets(config.eval.data, config.eval.limit)

    def evaluate(run: TrainingRun, step: int) -> None:
        setup = EvalSetup(AGENT_METHOD, run.protocol, run.engine, run.retriever, run.config)
        for dataset, questions in sets.items():
            # Process r of W answers the questions r, r + W, r + 2W, ...
            mine = questions[rank() :: world_size()]
            advance = now_and_then(f"step {step}: evaluating {dataset}", len(mine))

            def finished(item: ItemRecord, seconds: float) -> None:
                if run.is_main_process:
                    advance()  # noqa: B023

            with local_work():
                own = evaluate_items(mine, setup, finished)
            parts = gather_json(own)
            _require_answers(parts, dataset, step)
            if run.is_main_process:
                items = [
                    parts[index % len(parts)][index // len(parts)]
                    for index in range(len(questions))
                ]
                scores = summarize(
                    items, dataset=dataset, method=AGENT_METHOD.name, k=run.config.retriever.k
                )
                scores = with_intervals(scores, items)
                scores |= {"digests": {"data": data_digest(questions), **run.belongs}}
                write_evaluation(eval_folder(run.directory, step), scores, items)
                run.log(
                    f"step {step}: {dataset} EM {scores['em']:.3f} F1 {scores['f1']:.3f} (n "
                    f"{scores['n']})"
                )
                if warning := cut_questions(scores):
                    run.log(f"step {step}: {dataset}: {warning}")
                if scores["failed"]:
                    wrong = part_of(
                        scores["failed"],
                        scores["n"],
                        "question",
                        "counts as wrong because one of its searches failed",
                        "count as wrong because one of their searches failed",
                    )
                    run.warn(
                        f"step {step}: {dataset}: {wrong} ({search_error(items)}); this evaluation "
                        "is never the best, and --resume does not make it again"
                    )

    return evaluate


def require_its_questions(config: Config, run: Path) -> None:
    """Compare the questions that a run was evaluated on with those that a resumed one would be: one
    curve, and one best policy, are of the same questions. Where eval.data or eval.limit themselves
    change, the resumed run says so.

    Raises:
        InvalidInputError: the files hold other questions than before.
    """
    if not (is_run(run) and has_trained(run)):
        return
    before = read_resolved(run).eval
    if (before.data, before.limit) == (config.eval.data, config.eval.limit):
        require_same_questions({run: config}, question_digests)


def _require_answers(parts: Sequence[Sequence[ItemRecord]], dataset: str, step: int) -> None:
    """Raises RemoteServiceError if a search failed for every question of all processes."""
    items = [item for part in parts for item in part]
    if not items or not all(item["failed"] for item in items):
        return
    every = "the only question" if len(items) == 1 else f"all {len(items)} questions"
    raise RemoteServiceError(
        f"step {step}: {dataset}: {every} failed ({search_error(items)}); check "
        "the retriever and the deadlines, then use --resume"
    )
