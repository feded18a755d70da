"""Few-shot examples of baselines (`eval.examples`): a file of questions with their answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tspo_cli.console import agreeing, say
from tspo_cli.data.formats.answers import accepted_answers
from tspo_cli.data.formats.record_checks import invalid
from tspo_cli.data.rows import read_rows
from tspo_cli.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Example:
    """A question and its answer. `reply` is what the model would say, such as its reasoning and
    then the answer; empty: the answer in the form that the method asks for.
    """

    question: str
    answer: str
    reply: str = ""


def read_examples(path: Path) -> tuple[Example, ...]:
    """The examples of a file, in its order: `{"question", "answer"}`, with an optional `"reply"`.
    Question files do as well; the first accepted answer counts, and a line says so.

    Raises:
        MissingResourceError: the file does not exist.
        InvalidInputError: a record lacks question or answer, or there is no record.
    """
    examples, several = [], 0
    for number, record in read_rows(path):
        question, reply = record.get("question"), record.get("reply") or ""
        answers = accepted_answers(record)
        answer = answers[0] if isinstance(answers, list) and answers else None
        texts = (question, answer, reply)
        if not all(isinstance(text, str) for text in texts) or not question or not answer:
            raise invalid(
                path,
                number,
                '"question" and "answer" as strings, and "reply" where there is one',
                f"fields {', '.join(record)}",
                "correct the line",
            )
        several += len(answers) > 1
        examples.append(Example(question.strip(), str(answer).strip(), reply.strip()))
    if not examples:
        raise InvalidInputError(
            f"{path}: expected examples, got an empty file; fix: name another eval.examples"
        )
    if several:
        has = agreeing(several, "example has", "examples have")
        say(f"{path}: {has} several answers; the first of each is shown")
    return tuple(examples)
