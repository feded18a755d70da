"""Evaluation of a policy while it is trained, handed to the training loop."""

from __future__ import annotations

from tspo_cli.config.schema import Config
from tspo_cli.evaluation.methods import METHODS
from tspo_cli.evaluation.metrics import summarize
from tspo_cli.evaluation.runner import evaluate_items, write_evaluation
from tspo_cli.evaluation.sets import read_eval_sets
from tspo_cli.runs import eval_folder
from tspo_cli.training.core.distributed import gather_json, rank, world_size
from tspo_cli.training.loop import Evaluate, TrainingRun

AGENT_METHOD = METHODS["search_r1"]


def make_evaluator(config: Config) -> Evaluate:
    """The function that scores the agent on config.eval.data. The files are read now: bad ones are
    known early.
    """
    sets = read_eval_sets(config.eval.data, config.eval.limit)

    def evaluate(run: TrainingRun, step: int) -> None:
        for dataset, questions in sets.items():
            mine = questions[rank() :: world_size()]
            parts = gather_json(
                evaluate_items(
                    mine, AGENT_METHOD, run.engine, run.retriever, run.protocol, run.config
                )
            )
            if run.is_main_process:
                # Process r answered questions r, r + W, r + 2W, ...: put them back into the order
                # of the file.
                items = [
                    parts[place % len(parts)][place // len(parts)]
                    for place in range(len(questions))
                ]
                scores = summarize(
                    items, dataset=dataset, method=AGENT_METHOD.name, k=run.config.retriever.k
                )
                write_evaluation(eval_folder(run.directory, step), scores, items)
                run.log(
                    f"step {step}: {dataset} EM {scores['em']:.3f} F1 {scores['f1']:.3f} (n "
                    f"{scores['n']})"
                )

    return evaluate
