"""The judge of `tspo eval` as the outcome of training: asked once for each answer, and checked
before the run starts.

RUN/judge/replies_0.jsonl has every reply that process 0 got. Before a process asks, it reads what
the others got, in this attempt or an earlier one, so a resumed run has the same outcomes. Two
processes that ask about an answer in the same moment both keep their own reply.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.console import counted, warn
from tspo_cli.digests import json_digest
from tspo_cli.disk import atomic_write_text
from tspo_cli.errors import RemoteServiceError
from tspo_cli.evaluation.judging.judge import Judge, Judgement, kept_reply, open_judge, said
from tspo_cli.record_forms import REPLY, checked
from tspo_cli.rollout.engines.endpoint.served_names import ServedNames
from tspo_cli.runs import JUDGE_NAME, append_jsonl, read_jsonl
from tspo_cli.text.strict_json import json_text
from tspo_cli.threads import DaemonPool
from tspo_cli.training.rl.judged_rollouts import AnswerJudge, Asked, Opinion

_TOLD = "TSPO_JUDGE_ANSWERS_AS"
LOST_IN_A_ROW = 5
"""Answers without a reply, and none with one between them, after which the judge counts as gone."""


class TrainingJudge:
    """A judge with the replies that a run has got so far, of all its processes."""

    def __init__(self, judge: Judge, folder: Path, process: int) -> None:
        self.judge, self.own = judge, folder / f"replies_{process}.jsonl"
        self.known: dict[str, Judgement] = {}
        self.lost_in_a_row, self.has_told = 0, False
        folder.mkdir(parents=True, exist_ok=True)
        lines = self._take(self.own)  # first: its own replies count here
        if self.own.exists():  # a killed process may have left half a line
            atomic_write_text(self.own, "".join(json_text(line) + "\n" for line in lines))
        self._read_others()

    def opinions(self, asked: Sequence[Asked]) -> list[Opinion]:
        """One opinion for each answer; equal ones are asked once.

        Raises:
            RemoteServiceError: the last requests all failed.
        """
        keys = [_key(entry) for entry in asked]
        if not self.known.keys() >= set(keys):
            self._read_others()
        new = {key: entry for key, entry in zip(keys, asked, strict=True) if key not in self.known}
        lost = self._ask(new)
        self.lost_in_a_row = 0 if len(lost) < len(new) else self.lost_in_a_row + len(lost)
        if lost and self.lost_in_a_row >= LOST_IN_A_ROW:
            raise RemoteServiceError(
                "the judge of credit.outcome answers nothing that can be read: "
                f"{next(iter(lost.values()))}; check judge.url and judge.model, then use --resume"
            )
        opinions = [
            Opinion(None, lost[key]) if key in lost else _opinion(self.known[key]) for key in keys
        ]
        self._tell_of([opinion for opinion in opinions if opinion.verdict is None], len(opinions))
        return opinions

    def _tell_of(self, failed: Sequence[Opinion], count: int) -> None:
        """Say the first time that answers have no verdict: what fails is not the retriever."""
        if failed and not self.has_told:
            self.has_told = True
            warn(
                f"the judge gave no verdict on {len(failed)} of {counted(count, 'answer')} "
                f"({failed[0].problem}); such rollouts are not trained on and count in failed_share"
            )

    def _ask(self, new: Mapping[str, Asked]) -> dict[str, str]:
        """Ask for these answers, and keep the replies; why those failed that got none. Where the
        judge gives no verdict on any of them, of several questions, they got none: no filter does
        that.
        """
        pool = DaemonPool(self.judge.config.concurrency, "judge")
        lost: dict[str, str] = {}
        silent: dict[str, Judgement] = {}
        try:
            futures = {pool.submit(self.judge.ask, *entry): key for key, entry in new.items()}
            for future in as_completed(futures):
                key = futures[future]
                try:
                    judgement = future.result()
                except RemoteServiceError as error:
                    lost[key] = str(error)
                    continue
                if judgement.verdict is None:
                    silent[key] = judgement
                else:
                    self._keep(key, judgement)
        finally:
            pool.close()
        questions = {new[key][0] for key in silent}
        if len(questions) > 1 and len(lost) + len(silent) == len(new):
            return lost | {key: said(judgement) for key, judgement in silent.items()}
        for key, judgement in silent.items():
            self._keep(key, judgement)
        return lost

    def _keep(self, key: str, judgement: Judgement) -> None:
        self.known[key] = judgement
        line = {"judge": self.judge.digest, "key": key}
        append_jsonl(self.own, line | kept_reply(judgement))

    def _read_others(self) -> None:
        for path in sorted(self.own.parent.glob("replies_*.jsonl")):
            if path != self.own:
                self._take(path)

    def _take(self, path: Path) -> list[dict[str, Any]]:
        """The lines of a file. The first reply to a prompt counts; those of another judge, or to
        another, do not.

        Raises:
            InvalidInputError: a line is none.
        """
        lines = read_jsonl(path)
        for number, line in enumerate(lines, start=1):
            checked(REPLY, line, f"{path}:{number}")
            if line["judge"] == self.judge.digest:
                if line["key"] not in self.known and "served_as" in line:
                    self.judge.names.heard(line["served_as"])
                self.known.setdefault(line["key"], Judgement(line["reply"], line["problem"]))
        return lines


def open_training_judge(config: Config, run: Path, process: int) -> AnswerJudge | None:
    """The judge of a run in the directory `run`, None where it is not the outcome.

    Raises:
        InvalidInputError, MissingResourceError: see `open_judge`.
    """
    judge = open_judge(config.judge) if is_judged(config) else None
    if judge is None:
        return None
    # The check has told of the model that answers, and process 0 reads what the others are told.
    told = os.environ.get(_TOLD, "")
    names = ServedNames(judge.names.asked, judge.names.who, told, aloud=process == 0)
    return TrainingJudge(replace(judge, names=names), run / JUDGE_NAME, process)


def check_training_judge(config: Config) -> None:
    """Ask the judge of a training about answers that are known, before time is spent. The processes
    of the training inherit the name of another model that it answers as, which is warned of here.

    Raises:
        RemoteServiceError: it does not answer, or a verdict is wrong.
        InvalidInputError, MissingResourceError: see `open_judge`.
    """
    judge = open_judge(config.judge) if is_judged(config) else None
    os.environ.pop(_TOLD, None)
    if judge is not None:
        judge.preflight()
        if judge.names.last != judge.names.asked:
            os.environ[_TOLD] = judge.names.last


def is_judged(config: Config) -> bool:
    """True where the verdict of a judge is the outcome that is trained."""
    return config.kind != "sft" and config.credit.outcome == "judge"


def _key(asked: Asked) -> str:
    return json_digest(asked)


def _opinion(judgement: Judgement) -> Opinion:
    if judgement.verdict is not None:
        return Opinion(judgement.verdict)
    return Opinion(None, judgement.problem or "the judge's reply cannot be read")
