"""A worker of `tspo eval`: opens an engine of its own and answers the portions that it is given."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tspo_cli.console import set_quiet
from tspo_cli.errors import TspoError
from tspo_cli.evaluation.answering.open_engine import open_engine
from tspo_cli.evaluation.answering.runner import EvalSetup, evaluate_items
from tspo_cli.evaluation.answering.worker_messages import Job, portion_of
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.methods import find_method
from tspo_cli.retrieval.open_retriever import open_retriever


def answer_portions() -> int:
    """Do what stdin says until it ends; returns the exit code. Answers go to stdout, and whatever
    a library prints there goes to stderr.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        try:
            _answer(sys.stdin, answers)
        except TspoError as error:
            _send(answers, error=str(error), code=error.exit_code)
            return error.exit_code
    return 0


def _answer(lines: Iterable[str], answers: TextIO) -> None:
    lines = iter(lines)
    job = Job.of(next(lines))
    set_quiet(job.quiet)
    method, config = find_method(job.method), job.config
    opened = open_engine(config, method.tools, method.protocol)
    retriever = open_retriever(config.retriever)
    protocol = method.open(opened.tokenizer, config, job.examples)
    facts = {"model": opened.model, "kind": opened.kind, "positions": opened.positions}
    _send(answers, ready=facts)

    def on_item(record: ItemRecord, seconds: float) -> None:
        _send(answers, item=record, seconds=seconds)

    for line in lines:
        setup = EvalSetup(method, protocol, opened.fresh(), retriever, config)
        evaluate_items(portion_of(line), setup, on_item)
        _send(answers, done=True)


def _send(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
