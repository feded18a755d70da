"""Prompt styles: templates of the prompt, and the feedback after an invalid action."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tspo_cli.errors import InvalidInputError, MissingResourceError


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """The templates of one style.

    `search`, `direct` and `cot` contain `{question}`. `rag` also contains `{information}`, the
    passages in their tags. `invalid` is the feedback after an invalid action. `prefill` is appended
    to `direct` and `rag` prompts and counts as the beginning of the model's turn.
    """

    name: str
    search: str
    direct: str
    cot: str
    rag: str
    invalid: str
    prefill: str = ""


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
)

STYLES = {style.name: style for style in (SEARCH_R1, SHORT)}


def prompt_style(name_or_path: str) -> PromptStyle:
    """A built-in style by name, or Search-R1's style with the search prompt of a template file.

    Raises:
        MissingResourceError: neither a known name nor an existing file.
        InvalidInputError: the template has no `{question}`.
    """
    if name_or_path in STYLES:
        return STYLES[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(STYLES)
        raise MissingResourceError(
            f"rollout.prompt: {name_or_path!r} is neither a style ({known}) nor a template file"
        )
    template = path.read_text(encoding="utf-8")
    if "{question}" not in template:
        raise InvalidInputError(
            f"{path}: expected a template with {{question}} in it; add it where the question "
            "belongs"
        )
    return replace(SEARCH_R1, name=name_or_path, search=template)
