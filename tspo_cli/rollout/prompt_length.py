"""How long prompts are, for all questions at once, and shorter questions where one is too long.

`rollout.max_prompt_tokens` limits the agent's own prompt. Only the question gives way, never the
template around it. Passages have a limit of their own.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tspo_cli.console import agreeing
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.tokenizer_protocol import token_counts
from tspo_cli.rollout.protocol import SearchProtocol

SLACK = 16
"""Tokens by which a prompt may differ from the sum of its template and its question."""
MOST_PER_BYTE = 12
"""No tokenizer makes more tokens of one byte, whatever it normalises."""


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """The lengths of many prompts: `longest` in tokens with its question, and the questions whose
    prompts are longer than the limit.
    """

    longest: int
    longest_question: Question
    too_long: tuple[Question, ...]


def measure_prompts(
    questions: Sequence[Question], protocol: SearchProtocol, limit: int
) -> PromptLengths:
    """Measure the agent's prompts of `questions`, of which there is at least one.

    The questions are tokenised in batches, without their template. Whole prompts are made only for
    the longest questions and for those within `SLACK` tokens of the limit.
    """
    texts = [protocol.question_text(question.question) for question in questions]
    sizes = [protocol.template_tokens + count for count in token_counts(protocol.tokenizer, texts)]
    exact = {index for index in range(len(sizes)) if abs(sizes[index] - limit) <= SLACK} | set(
        heapq.nlargest(SLACK, range(len(sizes)), key=sizes.__getitem__)
    )
    for index in exact:
        sizes[index] = len(protocol.prompt_ids(questions[index].question))
    longest = max(exact, key=sizes.__getitem__)
    return PromptLengths(
        sizes[longest],
        questions[longest],
        tuple(q for q, size in zip(questions, sizes, strict=True) if size > limit),
    )


def fitted(question: Question, protocol: SearchProtocol, limit: int) -> Question:
    """`question`, its text cut at the end so that the agent's prompt has at most `limit` tokens.

    Raises:
        InvalidInputError: the prompt without its question is longer than the limit.
    """
    text = question.question
    if MOST_PER_BYTE * len(text.encode("utf-8", "replace")) + protocol.template_tokens <= limit:
        return question
    over = len(protocol.prompt_ids(text)) - limit
    (room,) = token_counts(protocol.tokenizer, [text])
    while over > 0:
        room -= over
        if room <= 0:
            raise InvalidInputError(
                f"rollout.max_prompt_tokens: {agreeing(limit, 'token does', 'tokens do')} not hold "
                f"the prompt without its question, which has {protocol.template_tokens}; raise it"
            )
        text = protocol.cut(question.question, room).rstrip("\ufffd")
        over = len(protocol.prompt_ids(text)) - limit
    return question if text == question.question else replace(question, question=text)
