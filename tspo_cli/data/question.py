"""Questions and passages, as the whole package uses them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tspo_cli.digests import text_digest


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable passage. `id` is unique within its corpus."""

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Title in quotes on the first line, then the text. This form is indexed and served."""
        return f'"{self.title}"\n{self.text}'


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its accepted answers.

    `id` is unique within `data_source`. `supporting_ids` names gold passages by their id;
    `gold_kind` says whether that list is complete ("full"), partial ("positive") or absent
    ("none"). `extra` keeps all other fields.
    """

    id: str
    question: str
    golden_answers: tuple[str, ...]
    data_source: str
    supporting_ids: tuple[str, ...] = ()
    gold_kind: str = "none"
    type: str = ""
    extra: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def key(self) -> str:
        """A name that is unique over all data sets."""
        return f"{self.data_source}/{self.id}"


def data_digest(questions: Iterable[Question]) -> str:
    """Digest of the questions in their order, with their accepted answers and gold passages."""
    return text_digest(
        json.dumps(
            [question.key, question.question, question.golden_answers, question.supporting_ids],
            ensure_ascii=False,
        )
        for question in questions
    )
