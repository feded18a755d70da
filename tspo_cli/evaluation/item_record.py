"""How an evaluated question is written to `<dataset>.items.jsonl.gz`, one `ItemRecord` per line."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from tspo_cli.rollout.records import RolloutRecord

ITEM_SCORES = (
    *("em", "f1", "sub_em", "judge", "answer_in_retrieved", "answer_in_shown", "gold_recall"),
    *("gold_precision", "first_occurrence", "first_retrieved", "question_answer_in_retrieved"),
    *("question_gold_recall", "searches", "cut_observations", "turns", "model_turns"),
    *("invalid_turns", "invalid_calls", "response_tokens"),
)
"""The numbers of an item: what reports compare."""
WRONG_WHERE_NONE = ("judge",)
"""Scores that were measured of every question: None, a reply without a verdict, counts as wrong."""


class ItemRecord(TypedDict):
    """One question, its scores and its trajectory.

    Scores are 0 to 1. A score is None where the question does not allow it: no gold passages, or a
    yes/no answer that any passage may contain. `evaluation/metrics.py` defines each of them. In
    those of `WRONG_WHERE_NONE`, None counts as 0.
    """

    id: str  # unique within the data set
    key: str  # data set and id
    data_source: str
    type: str  # question type, empty where the data set has none
    question: str
    golden_answers: list[str]
    supporting_ids: list[str]  # gold passages
    gold_kind: str  # whether that list is complete: full, positive or none
    answer: str | None  # the final answer; None if the model never gave one
    answer_from: NotRequired[str | None]  # how it was read: tags, marker or reply
    em: float  # exact match
    f1: float  # word F1
    sub_em: float  # a gold answer occurs in the answer
    answer_in_retrieved: float | None  # a gold answer occurs in a retrieved passage
    answer_in_shown: NotRequired[float | None]  # in the observations as the model was shown them
    gold_recall: float | None  # share of the gold passages that were retrieved
    gold_precision: float | None  # share of the retrieved passages that are gold
    first_occurrence: int | None  # turn, from 1, whose observation first has a gold, as in training
    first_retrieved: NotRequired[int | None]  # the same for whole passages
    question_answer_in_retrieved: float | None  # as above, with the bare question as the query
    question_gold_recall: float | None
    searches: int
    cut_observations: NotRequired[int]  # searches whose observation was cut to the limit
    turns: int
    model_turns: NotRequired[int]  # without the tool's own search with the question
    invalid_turns: int  # invalid or truncated
    invalid_calls: NotRequired[int]  # function calls that are not valid; methods that call only
    response_tokens: int  # sampled, over all turns
    failed: bool  # a search failed, a deadline passed or `unanswered`: counts as wrong
    trajectory: RolloutRecord
    cut_prompt: NotRequired[bool]  # written where it is true: the prompt has a part of the question
    no_answer: NotRequired[str]  # written where it is "thought": the last reply is only reasoning
    refused: NotRequired[str]  # why the server refused the question: no answer, counts as wrong
    unanswered: NotRequired[str]  # why the server did not answer the question, unlike others
    judge: NotRequired[float | None]  # verdict of the LLM judge; None where the reply has none
    judge_reply: NotRequired[str | None]  # None for a question without an answer, which is not sent
