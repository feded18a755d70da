"""Prompt styles: templates of the prompt, and the feedback after an invalid action."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tspo_cli.config.sections.prompt_value import QUESTION, prompt_value
from tspo_cli.errors import MissingResourceError

AfterEos = Literal["drop", "keep", "user_turn"]
LONGEST_SHOWN = 300
"""Characters of a prompt that is none in a message: a path is shown whole."""


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """The templates of one style.

    `search`, `direct` and `cot` contain `{question}`. `rag` also contains `{information}`, the
    passages in their tags. `invalid` is the feedback after an invalid action. `prefill` is appended
    to `direct` and `rag` prompts and counts as the beginning of the model's turn. The other fields
    are what `auto` means for rollout.question_mark, titles and after_eos.
    """

    name: str
    search: str
    direct: str
    cot: str
    rag: str
    invalid: str
    prefill: str = ""
    question_mark: bool = True
    quoted_titles: bool = True
    after_eos: AfterEos = "drop"


# The prompt and the feedback of Search-R1, to the letter: its checkpoints were trained with them.
SEARCH_R1 = PromptStyle(
    name="search_r1",
    search=(
        "Answer the given question. You must conduct reasoning inside <think> and </think> first "
        "every time you "
        "get new information. After reasoning, if you find you lack some knowledge, you can call a "
        "search engine "
        "by <search> query </search> and it will return the top searched results between "
        "<information> and "
        "</information>. You can search as many times as your want. If you find no further "
        "external knowledge "
        "needed, you can directly provide the answer inside <answer> and </answer>, without "
        "detailed "
        "illustrations. For example, <answer> Beijing </answer>. Question: {question}\n"
    ),
    direct=(
        "Answer the question from what you know. Write only the final answer, as short as possible "
        "and without any "
        "explanation, inside <answer> and </answer>.\nQuestion: {question}\n"
    ),
    cot=(
        "Answer the question from what you know. Think step by step inside <think> and </think>, "
        "then write only the "
        "final answer, as short as possible, inside <answer> and </answer>.\nQuestion: {question}\n"
    ),
    rag=(
        "Answer the question with the help of the passages below. Think inside <think> and "
        "</think>, then write "
        "only the final answer, as short as possible, inside <answer> and "
        "</answer>.\n{information}\nQuestion: "
        "{question}\n"
    ),
    invalid=(
        "\nMy previous action is invalid. If I want to search, I should put the query between "
        "<search> and "
        "</search>. If I want to give the final answer, I should put the answer between <answer> "
        "and </answer>. "
        "Let me try again.\n"
    ),
)

# For policies that learned the protocol in their warm start and need no instructions.
SHORT = PromptStyle(
    name="short",
    search="Question: {question}\n",
    direct="Question: {question}\n",
    cot="Question: {question}\n",
    rag="Question: {question}\n{information}",
    invalid="\n\nit is invalid\n\n",
    prefill="<answer>",
    question_mark=False,
    quoted_titles=False,
    after_eos="keep",
)

STYLES = {style.name: style for style in (SEARCH_R1, SHORT)}


def prompt_style(prompt: str) -> PromptStyle:
    """A built-in style by name, or Search-R1's style with the search prompt of a template: its text
    or its file.

    Raises:
        MissingResourceError: neither a known name nor a template nor an existing file.
        InvalidInputError: the file has no `{question}`.
    """
    if prompt in STYLES:
        return STYLES[prompt]
    template = prompt_value(prompt)
    if QUESTION not in template:
        raise MissingResourceError(
            f"{unknown_prompt(prompt)}; name one with --set rollout.prompt=FILE"
        )
    return replace(SEARCH_R1, name="template", search=template)


def unknown_prompt(prompt: str) -> str:
    """What is wrong with a `rollout.prompt` that is none, in one line."""
    shown = prompt if len(prompt) <= LONGEST_SHOWN else f"{prompt[:LONGEST_SHOWN]}…"
    return (
        f"rollout.prompt: {shown!r} is neither a style ({', '.join(STYLES)}) nor a template with "
        f"{QUESTION}, nor the file of one"
    )
