"""Accepted answers under the names that published question sets give them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FIELDS = ("golden_answers", "answer", "Answer", "answers", "possible_answers")
"""Fields of a record that hold accepted answers."""
UNANSWERABLE = "their paragraphs do not answer them (MuSiQue-Full, SQuAD 2)"
"""Why questions are left out."""


def accepted_answers(record: dict[str, Any]) -> Any:
    """The accepted answers of `record`: usually a list, None without any. A value of a wrong type
    is returned as it is, and the reader reports it.

    Fields: `golden_answers` (FlashRAG, Search-R1), `reward_model.ground_truth.target` (Search-R1
    parquet), `possible_answers` (PopQA: a JSON list in a string), `answer` or `Answer` with
    `answer_aliases` (MuSiQue) or `aug_answer` (ASearcher), `answer.value` with `answer.aliases`
    (TriviaQA; also `Value` and `Aliases`), `answers` or `answers.text` (SQuAD). Any may be one
    string or a list; `aliases` are added.
    """
    answers = _without_aliases(record)
    if isinstance(answers, list) and record.get("aliases") is not None:
        return _distinct([*answers, *_as_list(record["aliases"])])
    return answers


def is_unanswerable(record: Mapping[str, Any]) -> bool:
    """Whether its paragraphs do not answer it: half of MuSiQue-Full, a third of SQuAD 2. A table
    spells truth values as words or digits.
    """
    answers = record.get("answers")
    return (
        record.get("answerable") in (False, "false", "False", "FALSE", "0")
        or record.get("is_impossible") in (True, "true", "True", "TRUE", "1")
        or ("context" in record and isinstance(answers, dict) and answers.get("text") == [])
    )


def _without_aliases(record: dict[str, Any]) -> Any:
    value = record.get("golden_answers")
    if value is None and "reward_model" in record:
        value = _object(_object(record["reward_model"]).get("ground_truth")).get("target")
    if value is None and "possible_answers" in record:
        value = unpacked(record["possible_answers"])
    if value is not None:
        return [value] if isinstance(value, str) else value
    answer = record.get("answer", record.get("Answer"))
    if isinstance(answer, dict):
        names = ("value", "Value", "aliases", "Aliases")
        return _distinct([text for name in names for text in _as_list(answer.get(name))])
    if answer is not None:
        found = _as_list(answer)
        for name in ("answer_aliases", "aug_answer"):
            if name in record:
                found = [*found, *_as_list(record[name])]
        return _distinct(found)
    answers = record.get("answers")
    if isinstance(answers, dict):
        return _as_list(answers.get("text"))
    return [answers] if isinstance(answers, str) else answers


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def unpacked(value: Any) -> Any:
    """What the JSON in a text holds. A text without JSON, and any other value, is itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _as_list(value: Any) -> Any:
    """`value` as a list, empty for None."""
    if value is None:
        return []
    return [value] if not isinstance(value, list) else value


def _distinct(values: list[Any]) -> list[Any]:
    if len(values) < 2:
        return values
    if {*map(type, values)} == {str}:
        return [*dict.fromkeys(values)]
    strings = {value: None for value in values if isinstance(value, str)}
    return [*strings, *(value for value in values if not isinstance(value, str))]


def supporting_titles(record: dict[str, Any]) -> list[str]:
    """The titles of HotpotQA's and 2WikiMultihopQA's `supporting_facts`, each once: of pairs
    [title, sentence], or of the hub's {"title": [...], "sent_id": [...]}.
    """
    facts = record.get("supporting_facts")
    if not facts:
        return []
    if isinstance(facts, dict):
        titles = _as_list(facts.get("title"))
    elif isinstance(facts, list):
        titles = [fact[0] for fact in facts if isinstance(fact, list) and fact]
    else:
        return []
    return _distinct([title for title in titles if isinstance(title, str)])
