"""An LLM judge: a second score for answers, less strict than exact match. Its prompt is a file.

An answer is text of the model that is judged. It stands between two lines that it cannot contain,
so that it cannot end its own judgement.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tspo_cli.config.schema import JudgeConfig
from tspo_cli.config.urls import shown_url
from tspo_cli.console import agreeing, progress, warn
from tspo_cli.digests import json_digest
from tspo_cli.errors import InvalidInputError, MissingResourceError, RemoteServiceError
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.judging.verdict import FORM, verdict
from tspo_cli.evaluation.metrics import mean
from tspo_cli.evaluation.resuming.journal import REFUSED_FIRST, Journal
from tspo_cli.plain_files import is_plain, read_plain_text, why_missing
from tspo_cli.record_forms import VERDICT
from tspo_cli.rollout.engines.endpoint.chat_reply import read_reply
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient, RequestRefusedError
from tspo_cli.rollout.engines.endpoint.request_fields import RequestFields
from tspo_cli.rollout.engines.endpoint.served_names import ServedNames
from tspo_cli.threads import DaemonPool

BUILT_IN = Path(__file__).with_name("judge_prompt.txt")
FIELDS = ("question", "golden_answers", "answer")
_REFUSED = "refused: "
_KNOWN = ("What is the capital of France?", ("Paris",))
_KNOWN_ANSWERS = (("Paris", 1.0), ("London", 0.0))


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's reply, or why there is none (`problem`: refused, or cut by the token limit).
    `served_as`: the model that its server says it is, if not the one that was asked for.
    """

    reply: str
    problem: str = ""
    served_as: str = ""

    @property
    def verdict(self) -> float | None:
        """1 for correct, 0 for incorrect, None if the reply cannot be read."""
        return None if self.problem else verdict(self.reply)

    @property
    def refused(self) -> bool:
        """True where the server refused the request or withheld the reply."""
        return self.problem.startswith(_REFUSED)


@dataclass(frozen=True, slots=True)
class Judge:
    """A model on the server of `client` with the prompt `template`. `names`: as what it answers."""

    client: EndpointClient
    config: JudgeConfig
    template: str
    names: ServedNames

    @property
    def where(self) -> str:
        """Its model and its address, for messages."""
        return f"judge {self.config.model} at {shown_url(self.client.url)}"

    @property
    def prompt_sha256(self) -> str:
        """SHA-256 of the prompt with the form that it asks for, in hexadecimal."""
        return hashlib.sha256((self.template + FORM).encode("utf-8")).hexdigest()

    @property
    def digest(self) -> str:
        """The model's name and the first digits of the prompt's SHA-256."""
        return f"{self.config.model}@{self.prompt_sha256[:12]}"

    def judge(
        self,
        items: Sequence[ItemRecord],
        journal_path: Path,
        label: str,
        *,
        retry: bool = False,
        served_before: Collection[str] = (),
    ) -> tuple[list[ItemRecord], dict[str, Any]]:
        """Judge the items. Return them with their verdicts, and the scores.

        Each item gets `judge` (1, 0, or None if the reply cannot be read) and `judge_reply`. The
        scores are `judge` (replies that cannot be read count as incorrect), `judge_unclear` (the
        number of these replies), the model and the digest of the prompt. An item without an answer
        is incorrect and is not sent to the model. An item that has a reply keeps it; with `retry`
        only if it has a verdict. `judge_served_models` are the other models that the server
        answered as, now or in an earlier attempt (`served_before`), if there are any.

        Raises:
            RemoteServiceError: the server failed, or gave no verdict on the first answers or all.
                Finished verdicts are kept for --resume.
        """
        journal = Journal[dict[str, Any]](journal_path, self.digest, VERDICT)
        if retry:
            journal.drop([key for key, (record, _) in journal.done.items() if _is_unclear(record)])
            items = [
                _without_verdict(item) if item.get("judge", 0) is None else item for item in items
            ]
        waiting = [
            item
            for item in items
            if item["answer"] and _place(item) not in journal.done and "judge" not in item
        ]
        total = len(waiting) + len(journal.done)
        has_verdict = any(_kept(record).verdict is not None for record, _ in journal.done.values())
        has_verdict |= any(item.get("judge_reply") and item["judge"] is not None for item in items)
        pool = DaemonPool(self.config.concurrency, "judge")
        with progress(f"{label} judge", len(waiting)) as advance:
            futures = {pool.submit(self._reply, item): item for item in waiting}
            try:
                for future in as_completed(futures):
                    judgement = future.result()
                    journal.add(_place(futures[future]), kept_reply(judgement), 0.0)
                    advance(1)
                    has_verdict = has_verdict or judgement.verdict is not None
                    if not has_verdict and len(journal.done) >= min(REFUSED_FIRST, total):
                        journal.drop(list(journal.done))
                        raise _no_verdict(f"{label}: the {self.where}", total, judgement)
            finally:
                pool.close()
        judged = [self._judged(item, journal) for item in items]
        scores: dict[str, Any] = {
            "judge": mean([item["judge"] or 0.0 for item in judged]),
            "judge_unclear": sum(item["judge"] is None for item in judged),
            "judge_model": self.config.model,
            "judge_prompt_sha256": self.prompt_sha256,
        }
        others = {_kept(record).served_as for record, _ in journal.done.values()} - {""}
        others |= {*served_before}
        if others:
            scores |= {"judge_served_models": sorted(others)}
        journal.close()
        if scores["judge_unclear"]:
            unclear = agreeing(
                scores["judge_unclear"],
                "reply of the judge cannot be read and counts",
                "replies of the judge cannot be read and count",
            )
            warn(f"{label}: {unclear} as incorrect; --resume --retry-refused asks it again")
        return judged, scores

    def preflight(self) -> None:
        """Ask for a correct and a wrong answer to a known question, before answers are paid for.

        Raises:
            RemoteServiceError: the server fails, a reply cannot be read, or a verdict is wrong.
        """
        question, golds = _KNOWN
        for answer, expected in _KNOWN_ANSWERS:
            judgement = self.ask(question, golds, answer)
            if judgement.verdict == expected:
                continue
            wrong = "is wrong" if judgement.verdict is not None else "cannot be read"
            raise RemoteServiceError(
                f"{self.where}: its verdict on {answer!r} ({question} {golds[0]}) "
                f"{wrong}: {said(judgement)}; choose another judge.model, or change "
                "judge.prompt or judge.max_tokens"
            )

    def _judged(self, item: ItemRecord, journal: Journal[dict[str, Any]]) -> ItemRecord:
        if "judge" in item:
            return item
        if not item["answer"]:
            return item | {"judge": 0.0, "judge_reply": None}
        judgement = _kept(journal.done[_place(item)][0])
        reply = f"{judgement.reply} [{judgement.problem}]".strip()
        return item | {
            "judge": judgement.verdict,
            "judge_reply": reply if judgement.problem else judgement.reply,
        }

    def _reply(self, item: ItemRecord) -> Judgement:
        return self.ask(item["question"], item["golden_answers"], item["answer"] or "")

    def ask(self, question: str, golds: Sequence[str], answer: str) -> Judgement:
        """The judge's reply about an answer.

        Raises:
            RemoteServiceError: the server failed.
        """
        body = {
            "model": self.config.model,
            "messages": [
                {"role": "user", "content": filled(self.template, question, golds, answer)}
            ],
            "temperature": 0,
            "max_tokens": self.config.max_tokens,
        }
        try:
            response = self.client.post("/chat/completions", body)
        except RequestRefusedError as error:
            return Judgement("", f"{_REFUSED}{error.reason}{error.hint}")
        reply = read_reply(response, "chat", self.config.max_tokens)
        served_as = self.names.other(response)
        if reply.refused:
            return Judgement("", f"{_REFUSED}{reply.refused}", served_as)
        cut = reply.finish_reason == "length"
        return Judgement(reply.text, "cut by judge.max_tokens" if cut else "", served_as)


def _place(item: ItemRecord) -> str:
    """The key of a judgement in its journal. A question that is asked again, because a search had
    failed, may have another answer then.
    """
    return json_digest([item["key"], item["answer"]])


def kept_reply(judgement: Judgement) -> dict[str, str]:
    """A judgement as it is kept in a file."""
    record = {"reply": judgement.reply, "problem": judgement.problem}
    return record | ({"served_as": judgement.served_as} if judgement.served_as else {})


def _is_unclear(record: Mapping[str, str]) -> bool:
    return _kept(record).verdict is None


def _without_verdict(item: ItemRecord) -> ItemRecord:
    kept = {key: value for key, value in item.items() if key not in ("judge", "judge_reply")}
    return cast("ItemRecord", kept)


def _kept(record: Mapping[str, str]) -> Judgement:
    return Judgement(record["reply"], record["problem"], record.get("served_as", ""))


def said(judgement: Judgement) -> str:
    """Why a judgement has no verdict, in words."""
    return judgement.problem or f"it replied {' '.join(judgement.reply.split())[-200:]!r}"


def _no_verdict(judge: str, total: int, last: Judgement) -> RemoteServiceError:
    """What ends an evaluation whose `judge` gave no verdict on the first REFUSED_FIRST of `total`
    answers, or on any: this says nothing about the answers.
    """
    which = "every answer" if total <= REFUSED_FIRST else f"the first {REFUSED_FIRST} answers"
    if last.refused:
        what, check = f"refused {which}: {last.problem.removeprefix(_REFUSED)}", "judge.url"
    else:
        what, check = f"gave no verdict on {which}: {said(last)}", "judge.max_tokens"
    return RemoteServiceError(f"{judge} {what}; check {check} and judge.model, then use --resume")


def filled(template: str, question: str, golds: Sequence[str], answer: str) -> str:
    """The prompt for one answer, with the form of the reply at its end."""
    fence = fence_of(answer)
    values = {
        "question": question,
        "golden_answers": "; ".join(golds),
        "answer": f"{fence}\n{answer}\n{fence}",
        "fence": fence,
    }
    # A single pass: "{question}" inside an answer is not replaced.
    return re.sub(
        r"\{(\w+)\}",
        lambda match: values.get(match.group(1), match.group(0)),
        template.rstrip() + FORM,
    )


def fence_of(answer: str) -> str:
    """A line that `answer` does not contain: a digest of the answer itself."""
    fence = ""
    while not fence or fence in answer:
        digest = hashlib.sha256(f"{fence}\0{answer}".encode("utf-8", "surrogatepass")).hexdigest()
        fence = f"=== answer {digest[:16]} ==="
    return fence


def open_judge(config: JudgeConfig) -> Judge | None:
    """The judge of the configuration; None if judge.url is not set.

    Raises:
        MissingResourceError: the prompt file does not exist.
        InvalidInputError: judge.model is not set, or the prompt lacks a field.
    """
    if not config.url:
        return None
    if not config.model:
        raise InvalidInputError(
            "judge.model: expected the name of a model on the server of judge.url"
        )
    path = Path(config.prompt) if config.prompt else BUILT_IN
    if not is_plain(path):
        raise MissingResourceError(f"judge.prompt: {path}: {why_missing(path)}")
    template = read_plain_text(path)
    missing = [name for name in FIELDS if f"{{{name}}}" not in template]
    if missing:
        raise InvalidInputError(f"{path}: expected {{{missing[0]}}} in the prompt; add this field")
    client = EndpointClient(
        config.url,
        key_env=config.key_env,
        timeout=config.timeout,
        retries=config.retries,
        fields=RequestFields("judge", config.rename.model_dump(), tuple(config.drop)),
    )
    return Judge(client, config, template, ServedNames(config.model, "the judge"))
