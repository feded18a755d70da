"""Several processes answer the questions of an evaluation, each with an engine of its own."""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.console import is_quiet
from tspo_cli.cpu_threads import refuse_too_many
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.evaluation.answering.open_engine import OpenedEngine
from tspo_cli.evaluation.answering.worker_messages import Job, portion_line
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.models.load_model import load_tokenizer
from tspo_cli.rollout.engines.engine_protocol import Engine
from tspo_cli.training.launch.child_processes import end_processes

WORKER = "tspo_cli.commands.worker"
_LONGEST_END = 10.0
"""Seconds that a worker without work has to end by itself."""


Message = dict[str, Any]


@dataclass(frozen=True)
class Workers:
    """Running workers. `facts` are those of their engines, which are equal."""

    processes: Sequence[subprocess.Popen[str]]
    messages: queue.SimpleQueue[tuple[int, Message | None]]
    facts: Message

    def answer(
        self,
        portions: Sequence[list[Question]],
        on_item: Callable[[ItemRecord, float], None],
        after: Callable[[list[Question]], None],
    ) -> None:
        """Answer the portions: each goes whole to one worker, the next to whoever is free.
        `on_item` is called with every record and its seconds, `after` with every finished portion.

        Raises:
            TspoError: a worker failed, with its message and exit code, or was killed.
        """
        left = list(reversed(portions))
        at_work: dict[int, list[Question]] = {}

        def give(worker: int) -> None:
            if left:
                at_work[worker] = left.pop()
                _send(self.processes[worker], portion_line(at_work[worker]))

        for worker in range(len(self.processes)):
            give(worker)
        while at_work:
            worker, message = self.next_message()
            if "item" in message:
                on_item(message["item"], message["seconds"])
            else:
                after(at_work.pop(worker))
                give(worker)

    def next_message(self) -> tuple[int, Message]:
        """A worker and what it says. Raises TspoError as `answer`."""
        worker, message = self.messages.get()
        if message is None:
            raise _end_of(self.processes[worker], worker, len(self.processes))
        if "error" in message:
            failure = TspoError(message["error"])
            failure.exit_code = message["code"]
            raise failure
        return worker, message


@contextmanager
def open_workers(job: Job, count: int) -> Iterator[Workers]:
    """`count` processes that do `job`. On a machine with GPUs each has one of its own.

    Raises:
        InvalidInputError: there are fewer GPUs, or the workers opened different models.
        TspoError: a worker could not open its engine.
    """
    command = [sys.executable, "-m", WORKER, "evaluate", str(os.getpid())]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for environment in _environments(count)
    ]
    messages: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
    try:
        for number, process in enumerate(processes):
            threading.Thread(target=_read, args=(number, process, messages), daemon=True).start()
            _send(process, replace(job, quiet=number > 0 or is_quiet()).line())
        workers = Workers(processes, messages, {})
        facts: list[Message] = []
        while len(facts) < count:
            facts.append(workers.next_message()[1]["ready"])
        if any(told != facts[0] for told in facts):
            raise InvalidInputError(
                f"{job.config.model.path}: was replaced while {count} processes opened it; start "
                "again"
            )
        yield Workers(processes, messages, facts[0])
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            process.wait(timeout=_LONGEST_END)
    finally:
        end_processes(processes)


def idle_processes(questions: int, portion: int, processes: int) -> str | None:
    """A sentence where a data set has fewer portions than there are processes."""
    portions = math.ceil(questions / portion)
    if portions >= processes or questions < processes:
        return None
    return (
        f"{questions} questions are {portions} of eval.portion, so that {processes - portions} of "
        f"{processes} processes {'has' if processes - portions == 1 else 'have'} nothing to do; "
        f"set eval.portion={questions // processes} or less"
    )


def opened_elsewhere(config: Config, facts: Message) -> OpenedEngine:
    """The engine of workers, as far as this process needs it."""

    def fresh() -> Engine:
        raise TspoError("the engine runs in other processes")

    tokenizer = load_tokenizer(config.model.path, config.model.revision)
    return OpenedEngine(tokenizer, fresh, False, facts["model"], facts["kind"], facts["positions"])


def _environments(count: int) -> list[dict[str, str]]:
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        refuse_too_many("eval.processes", count, "an engine")
        return [{}] * count
    if count > gpus:
        raise InvalidInputError(
            f"eval.processes: {count} engines need {count} GPUs, and this machine has {gpus}; set "
            f"eval.processes to at most {gpus}"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(number) for number in range(gpus)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:count]]


def _read(
    number: int,
    process: subprocess.Popen[str],
    messages: queue.SimpleQueue[tuple[int, Message | None]],
) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        messages.put((number, json.loads(line)))
    messages.put((number, None))


def _send(process: subprocess.Popen[str], line: str) -> None:
    """Give a worker a line. One that has died says so where its messages are read."""
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return


def _end_of(process: subprocess.Popen[str], number: int, count: int) -> TspoError:
    code = process.wait()
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = ", perhaps because memory ran out" if code == -9 else ""
    return TspoError(
        f"evaluation process {number + 1} of {count} {how}{hint}; finished answers are kept: go on "
        "with --resume"
    )
