"""An LLM judge: a second score for answers, less strict than exact match. Its prompt is a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import JudgeConfig
from tspo_cli.console import progress
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.journal import Journal
from tspo_cli.evaluation.metrics import mean
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient, first_choice

BUILT_IN = Path(__file__).with_name("judge_prompt.txt")
FIELDS = ("question", "golden_answers", "answer")
_VERDICT = re.compile(r"\b(in)?correct\b", re.IGNORECASE)
_THINK = re.compile(r".*</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Judge:
    """A model on the server of `client` with the prompt `template`."""

    client: EndpointClient
    config: JudgeConfig
    template: str

    @property
    def prompt_sha256(self) -> str:
        """SHA-256 of the prompt, in hexadecimal."""
        return hashlib.sha256(self.template.encode("utf-8")).hexdigest()

    @property
    def digest(self) -> str:
        """The model's name and the first digits of the prompt's SHA-256."""
        return f"{self.config.model}@{self.prompt_sha256[:12]}"

    def judge(
        self, items: Sequence[ItemRecord], journal_path: Path, label: str
    ) -> tuple[list[ItemRecord], dict[str, Any]]:
        """Judge the items. Return them with their verdicts, and the scores.

        Each item gets `judge` (1, 0, or None if the reply has no verdict) and `judge_reply`. The
        scores are `judge` (replies without a verdict count as incorrect), `judge_unclear` (the
        number of these replies), the model and the digest of the prompt. An item without an answer
        is incorrect and is not sent to the model.

        Raises:
            RemoteServiceError: the server failed. Finished verdicts are kept for --resume.
        """
        journal = Journal[dict[str, Any]](journal_path, self.digest)
        waiting = [item for item in items if item["answer"] and item["key"] not in journal.done]
        with (
            progress(f"{label} judge", len(waiting)) as advance,
            ThreadPoolExecutor(self.config.concurrency) as pool,
        ):
            futures = {pool.submit(self._reply, item): item for item in waiting}
            try:
                for future in as_completed(futures):
                    journal.add(futures[future]["key"], {"reply": future.result()}, 0.0)
                    advance(1)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        judged = [self._judged(item, journal) for item in items]
        scores = {
            "judge": mean([item["judge"] or 0.0 for item in judged]),
            "judge_unclear": sum(item["judge"] is None for item in judged),
            "judge_model": self.config.model,
            "judge_prompt_sha256": self.prompt_sha256,
        }
        journal.close()
        return judged, scores

    def _judged(self, item: ItemRecord, journal: Journal[dict[str, Any]]) -> ItemRecord:
        if not item["answer"]:
            return item | {"judge": 0.0, "judge_reply": None}
        reply = journal.done[item["key"]][0]["reply"]
        return item | {"judge": verdict(reply), "judge_reply": reply}

    def _reply(self, item: ItemRecord) -> str:
        values = {
            "question": item["question"],
            "golden_answers": "; ".join(item["golden_answers"]),
            "answer": item["answer"] or "",
        }
        # A single pass: "{question}" inside an answer is not replaced.
        prompt = re.sub(
            r"\{(\w+)\}", lambda match: values.get(match.group(1), match.group(0)), self.template
        )
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.config.max_tokens,
        }
        choice = first_choice(self.client.post("/chat/completions", body), self.client.url)
        return str((choice.get("message") or {}).get("content") or "")


def verdict(reply: str) -> float | None:
    """1 if the last verdict of the reply is "correct", 0 if it is "incorrect", None without either.

    A <think> block is ignored.
    """
    matches = list(_VERDICT.finditer(_THINK.sub("", reply)))
    return None if not matches else float(matches[-1].group(1) is None)


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
    if not path.is_file():
        raise MissingResourceError(f"judge.prompt: {path}: no such file")
    template = path.read_text(encoding="utf-8")
    missing = [name for name in FIELDS if f"{{{name}}}" not in template]
    if missing:
        raise InvalidInputError(f"{path}: expected {{{missing[0]}}} in the prompt; add this field")
    client = EndpointClient(
        config.url, key_env=config.key_env, timeout=config.timeout, retries=config.retries
    )
    return Judge(client, config, template)
