"""Evaluate one method with one model and retriever on several data sets.

Every data set is answered in portions, can be resumed, is scored, and gets a signature.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.console import agreeing, counted, progress, say, warn
from tspo_cli.data.question import Question, data_digest
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.evaluation.answering.open_engine import OpenedEngine
from tspo_cli.evaluation.answering.runner import EvalSetup, evaluate_items, write_evaluation
from tspo_cli.evaluation.answering.workers import Workers, idle_processes
from tspo_cli.evaluation.ceiling import ceiling, no_gold
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.judging.judge import Judge
from tspo_cli.evaluation.methods import Method
from tspo_cli.evaluation.methods.examples import Example
from tspo_cli.evaluation.metrics import summarize
from tspo_cli.evaluation.resuming.journal import (
    REFUSED_FIRST,
    Journal,
    ask_again,
    count_refused,
    is_lost,
    read_times,
    reopen,
    require_answers,
    times_of,
)
from tspo_cli.evaluation.resuming.same_settings import recorded_settings, what_differs
from tspo_cli.evaluation.sets import benchmark_size
from tspo_cli.evaluation.signature import (
    answer_settings,
    config_digest,
    examples_digest,
    retriever_digests,
    sign,
)
from tspo_cli.evaluation.summary import (
    calls_in_thoughts,
    cut_questions,
    failed_searches,
    latency,
    only_thoughts,
    served_models,
    several_models,
    silent_model,
    stopped_in_thoughts,
    unanswered_questions,
    with_intervals,
)
from tspo_cli.models.chat_template import template_warnings
from tspo_cli.models.checks.length_limits import context_warnings
from tspo_cli.record_digests import changing
from tspo_cli.record_forms import ANSWERED, SCORES, checked
from tspo_cli.retrieval.index.other_corpus import OTHER_CORPUS
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.limit_warnings import depth_warnings, observation_warnings, waiting_warnings
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.runs import (
    EVAL_TIMINGS_NAME,
    dataset_file_name,
    read_json,
    scores_file,
    write_json,
)

PORTION_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Session:
    """What all data sets share. `folder` holds the results and the unfinished work.

    `retry_refused`: ask the questions again that the server refused before, and the judge about
    answers without a verdict. `retry_failed`: ask those again of which a search or
    a request of the model failed.
    `workers`: processes that answer in place of this one.
    """

    folder: Path
    method: Method
    config: Config
    opened: OpenedEngine
    retriever: Retriever | None
    judge: Judge | None
    examples: tuple[Example, ...] = ()
    retry_refused: bool = False
    retry_failed: bool = False
    workers: Workers | None = None

    def dataset(self, name: str, questions: list[Question]) -> dict[str, Any]:
        """Evaluate one data set and return its scores. Existing scores are read from their file.

        Raises:
            InvalidInputError: the folder has results, or unfinished work, of other settings.
            RemoteServiceError: the endpoint or the retriever failed, or the endpoint refused the
                first questions or all. Finished answers are kept.
        """
        digests = self._digests(questions)
        signature = sign(
            digests, method=self.method.name, k=self.config.retriever.k, **self._answer_form()
        )
        settings = answer_settings(self.config)
        path, known = scores_file(self.folder, name), dict[str, Any]()
        begun = self.folder / f"{dataset_file_name(name)}.partial.jsonl"
        if path.exists():
            known |= checked(SCORES, read_json(path), str(path))
            if known.get("signature") != signature:
                both = (recorded_settings(self.folder), settings)
                differs = what_differs(str(known.get("signature")), signature, both)
                raise InvalidInputError(
                    f"{path}: was made with other settings: {differs}; resume with those, "
                    "add --overwrite to replace it, or choose another --out"
                )
            refused = self.retry_refused and (known.get("refused") or known.get("judge_unclear"))
            if not (refused or (self.retry_failed and known.get("failed"))):
                begun.unlink(missing_ok=True)  # of a process that was killed before it did this
                say(f"{name}: already evaluated")
                return known
        journal = Journal[ItemRecord](begun, signature, ANSWERED, settings)
        ask_again(journal, self._asks_again)
        if path.exists():
            reopen(self.folder, name, journal, self._asks_again)
        asked = [question.question for question in questions]
        searches = self.method.budget(self.config.rollout.max_searches)
        for problem in depth_warnings(self.config, self.retriever, asked, searches=searches):
            warn(f"{name}: {problem}")
        self._answer(name, questions, journal)
        if self.opened.remote:
            require_answers(name, len(questions), journal)
        records = [journal.done[question.key] for question in questions]
        items = [record for record, _ in records]
        scores = summarize(items, dataset=name, method=self.method.name, k=self.config.retriever.k)
        scores = with_intervals(scores, items) | {"ceiling": ceiling(questions, self.retriever)}
        scores |= {"benchmark_size": benchmark_size(name), **self._answer_form()}
        if self.opened.remote:
            scores |= {"refused": count_refused(items)}
            if names := served_models(items, self.opened.model):
                scores |= {"served_models": names}
        if self.judge is not None:
            items, judged = self.judge.judge(
                items,
                self.folder / f"{dataset_file_name(name)}.judge.partial.jsonl",
                name,
                retry=self.retry_refused,
                served_before=known.get("judge_served_models", ()),
            )
            scores |= judged
        scores |= {"signature": signature, "digests": digests}
        self._note_latency(name, questions, [seconds for _, seconds in records])
        write_evaluation(self.folder, scores, items)
        journal.close()
        silent = silent_model(scores, self._answer_form().get("answer", "tags"))
        notes = (
            *(silent, cut_questions(scores), calls_in_thoughts(items), only_thoughts(items)),
            stopped_in_thoughts(items, self.method.protocol.stop, remote=self.opened.remote),
            failed_searches(items),
            unanswered_questions(items),
            several_models(scores),
            OTHER_CORPUS if no_gold(scores["ceiling"]) else None,
        )
        for warning in notes:
            if warning is not None:
                warn(f"{name}: {warning}")
        if scores.get("refused"):
            count, them = ("counts", "it") if scores["refused"] == 1 else ("count", "them")
            warn(
                f"{name}: the server refused {scores['refused']} of "
                f"{counted(len(items), 'question')}, which {count} as wrong; --resume "
                f"--retry-refused asks {them} again"
            )
        return scores

    def _asks_again(self, record: ItemRecord) -> bool:
        return (self.retry_refused and "refused" in record) or (
            self.retry_failed and record["failed"]
        )

    def limit_warnings(self) -> Iterator[str]:
        """Limits that will harm every data set, and settings without effect, in sentences. The
        index here is measured, and a server is not asked.
        """
        config, rollout = self.config, self.config.rollout
        if self.opened.kind != "chat":  # whose server has the template
            yield from template_warnings(self.opened.tokenizer, rollout)
        longest = rollout.max_prompt_tokens + rollout.max_new_tokens
        if self.method.retrieves:
            yield from waiting_warnings(config)
            yield from observation_warnings(config, self.retriever, [], self._protocol())
            longest += rollout.max_observation_tokens
        longest = context_length(config) if self.method.searches else longest
        yield from context_warnings(longest, self.opened.positions)

    def latency(self, name: str) -> dict[str, float]:
        """Seconds per question: mean, median, 95th percentile and sum."""
        known = times_of(self.folder, name)
        return {key: known[key] for key in ("mean", "p50", "p95", "sum")}

    def _answer(self, name: str, questions: list[Question], journal: Journal[ItemRecord]) -> None:
        correct = sum(record["em"] for record, _ in journal.done.values())

        with progress(f"{name} {self.method.name}", len(questions)) as advance:

            def finished(record: ItemRecord, seconds: float) -> None:
                nonlocal correct
                correct += record["em"]
                journal.add(record["key"], record, seconds)
                advance(1, f"EM {100 * correct / len(journal.done):.1f}")
                if is_lost(record):
                    require_answers(name, len(questions), journal)

            if self.workers is not None:
                count = len(self.workers.processes)
                idle = idle_processes(len(questions), self._portion(), count)
                if idle is not None:
                    warn(f"{name}: {idle}")
            unanswered = []
            for portion in self._portions(questions):
                missing = [question for question in portion if question.key not in journal.done]
                if 0 < len(missing) < len(portion) and not self.opened.independent:
                    # In a batch with other questions, an answer may differ in its last bits. The
                    # whole portion is answered again.
                    for question in portion:
                        if question.key in journal.done:
                            correct -= journal.done.pop(question.key)[0]["em"]
                    missing = portion
                advance(len(portion) - len(missing))
                if missing:
                    unanswered.append(missing)
            self._answer_portions(
                unanswered, finished, lambda portion: self._require_retriever(portion, journal)
            )

    def _answer_portions(
        self,
        portions: list[list[Question]],
        on_item: Callable[[ItemRecord, float], None],
        after: Callable[[list[Question]], None],
    ) -> None:
        if self.workers is not None:
            self.workers.answer(portions, on_item, after)
            return
        protocol = self._protocol()
        for portion in portions:
            engine = self.opened.fresh()
            setup = EvalSetup(self.method, protocol, engine, self.retriever, self.config)
            evaluate_items(portion, setup, on_item)
            after(portion)

    def _protocol(self) -> SearchProtocol:
        config = self.config
        if self.opened.kind == "chat":
            # The server applies the chat template and keeps the messages.
            served = {"chat_template": "never", "after_eos": "keep"}
            rollout = config.rollout.model_copy(update=served)
            config = config.model_copy(update={"rollout": rollout})
        return self.method.open(self.opened.tokenizer, config, self.examples)

    def _answer_form(self) -> dict[str, str]:
        """How answers are read, for a method that has a choice."""
        if not self.method.reads_replies:
            return {}
        return {"answer": self.method.answer_form(self.config)}

    def _require_retriever(self, asked: Sequence[Question], journal: Journal[ItemRecord]) -> None:
        """Check the retriever if a search has failed.

        If the retriever answers another query, the failed questions count as wrong. If it does not,
        or if all of many questions failed, their records are dropped and the evaluation ends: a
        broken server says nothing about the model.
        """
        lost = [
            question.key for question in asked if _lacks_a_search(journal.done[question.key][0])
        ]
        if not lost or self.retriever is None or not self.retriever.blocking:
            return
        problem = _problem(self.retriever)
        if problem is None and len(lost) == len(asked) >= REFUSED_FIRST:
            problem = f"no search was answered ({_first_reason(journal.done[lost[0]][0])})"
        if problem is None:
            return
        journal.drop(lost)
        raise RemoteServiceError(
            f"{problem}; {agreeing(len(lost), 'question was', 'questions were')} lost. Start the "
            "retriever again, then continue with --resume"
        )

    def _portion(self) -> int:
        return self.config.eval.portion or PORTION_BATCHES * self.config.eval.batch_size

    def _portions(self, questions: list[Question]) -> Iterator[list[Question]]:
        size = self._portion()
        return (questions[start : start + size] for start in range(0, len(questions), size))

    def _digests(self, questions: list[Question]) -> dict[str, str]:
        return {
            "config": config_digest(self.config),
            "model": self.opened.model,
            "engine": self.opened.kind,
            **retriever_digests(self.retriever, self.config),
            **({"judge": self.judge.digest} if self.judge is not None else {}),
            **({"examples": examples_digest(self.examples)} if self.examples else {}),
            "data": data_digest(questions),
        }

    def _note_latency(self, name: str, questions: Sequence[Question], seconds: list[float]) -> None:
        path = self.folder / EVAL_TIMINGS_NAME
        known = read_times(self.folder) if path.exists() else {}
        items = {
            question.key: round(value, 4)
            for question, value in zip(questions, seconds, strict=True)
        }
        with changing(path):
            write_json(path, known | {name: latency(seconds) | {"items": items}})


def _problem(retriever: Retriever) -> str | None:
    """Why the retriever does not answer a query that is in no server's cache; None if it does."""
    try:
        (probe,) = retriever.search([secrets.token_hex(8)], 1)
    except RemoteServiceError as error:
        return str(error)
    return probe.error


def _first_reason(record: ItemRecord) -> str:
    errors = [turn["search_error"] for turn in record["trajectory"]["turns"]]
    return next((error for error in errors if error), "the search with the question failed")


def _lacks_a_search(record: ItemRecord) -> bool:
    """True if a search of the agent, or the search with the question itself, failed."""
    failed = record["failed"] and "unanswered" not in record
    gold = bool(record["supporting_ids"]) and record["question_gold_recall"] is None
    answer = (
        record["answer_in_retrieved"] is not None and record["question_answer_in_retrieved"] is None
    )
    return failed or gold or answer
