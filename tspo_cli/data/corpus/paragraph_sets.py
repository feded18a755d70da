"""Questions that bring their own paragraphs: HotpotQA, 2WikiMultihopQA and MuSiQue, in the forms of
their original files and of the Hugging Face hub.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tspo_cli.console import counted
from tspo_cli.data.corpus.passage_forms import field_names
from tspo_cli.data.formats.answers import accepted_answers, unpacked
from tspo_cli.data.formats.record_checks import invalid, type_name
from tspo_cli.data.question import Question
from tspo_cli.data.readers import parse_question

HOTPOTQA, TWOWIKI, MUSIQUE = "hotpotqa", "2wikimultihopqa", "musique"
_PARAGRAPHS = ("context", "paragraphs")
_TWOWIKI_FIELDS = ("evidences", "evidences_id", "entity_ids", "answer_id")
_HOPS = re.compile(r"(\d+hop\d*)__")
_DISTRACTOR = (
    "take the set's distractor form (hotpot_dev_distractor_v1.json): the paragraphs of the full "
    "wiki form come from a retriever"
)


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph as a corpus holds it: one line of text in composed Unicode (NFC)."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class OwnParagraphs:
    """A question with the paragraphs that it brings. `gold` are the positions of those that its
    answer follows from, each once; empty if the record names none.
    """

    question: Question
    paragraphs: tuple[Paragraph, ...]
    gold: tuple[int, ...]


def one_line_text(text: str) -> str:
    """`text` in composed Unicode with single spaces for all white space, none at its ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def own_paragraphs(
    path: Path, number: int, record: dict[str, Any], aliases: Mapping[str, Sequence[str]]
) -> OwnParagraphs:
    """The question of a record with its paragraphs.

    Args:
        path, number: where the record stands, for errors.
        aliases: further names of the entity `answer_id`, which the 2WikiMultihopQA archive has in
            a file of its own.

    Raises:
        InvalidInputError: it brings no paragraphs, one of them is malformed, a gold paragraph is
            not among them, or it has no answer.
    """
    record = _unfolded(record)
    if not any(name in record for name in _PARAGRAPHS):
        raise invalid(
            path,
            number,
            'a question with its paragraphs ("context" or "paragraphs")',
            f"fields {field_names(record)}",
            "name a file of HotpotQA (distractor), 2WikiMultihopQA or MuSiQue",
        )
    known = aliases.get(str(record.get("answer_id")))
    if known:
        record["aliases"] = [*(record.get("aliases") or ()), *known]
    _require_answer(path, number, record)
    is_musique = "paragraphs" in record
    read = _musique if is_musique else _hotpotqa
    paragraphs, gold = read(path, number, record)
    question = parse_question(path, number, record, set_of(record))
    level = record.get("level")
    return OwnParagraphs(
        replace(
            question,
            supporting_ids=(),
            gold_kind="full" if gold else "none",
            type=question.type or _hops(question.id),
            extra={"level": level} if isinstance(level, str) and level else {},
        ),
        paragraphs,
        gold,
    )


def set_of(record: Mapping[str, Any]) -> str:
    """The set that a record is from, by its fields."""
    if "paragraphs" in record:
        return MUSIQUE
    return TWOWIKI if any(name in record for name in _TWOWIKI_FIELDS) else HOTPOTQA


def _unfolded(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the fields of `metadata` beside the others, where FlashRAG keeps paragraphs,
    and without the JSON strings of one of the hub's forms.
    """
    metadata = record.get("metadata")
    if isinstance(metadata, dict) and not any(name in record for name in _PARAGRAPHS):
        record = {**metadata, **record}
    packed = (*_PARAGRAPHS, "supporting_facts")
    return {name: unpacked(value) if name in packed else value for name, value in record.items()}


def _require_answer(path: Path, number: int, record: dict[str, Any]) -> None:
    answers = accepted_answers(record)
    if answers is None or (
        isinstance(answers, list)
        and not any(str(answer).strip() for answer in answers if answer is not None)
    ):
        raise invalid(
            path,
            number,
            "an answer",
            "none",
            "take the train or dev split; the answers of the test split are not published",
        )


def _hotpotqa(
    path: Path, number: int, record: dict[str, Any]
) -> tuple[tuple[Paragraph, ...], tuple[int, ...]]:
    """Paragraphs and gold positions of `context` and `supporting_facts`."""
    titled = list(_context(path, number, record["context"]))
    if not titled:
        raise _no_paragraph(path, number, "context")
    paragraphs = tuple(
        Paragraph(one_line_text(title), _joined(sentences)) for title, sentences in titled
    )
    gold: dict[int, None] = {}
    for title, sentence in _facts(path, number, record.get("supporting_facts")):
        wanted = one_line_text(title)
        places = [at for at, paragraph in enumerate(paragraphs) if paragraph.title == wanted]
        if not places:
            raise invalid(
                path,
                number,
                "every supporting title among the titles of its paragraphs",
                repr(title[:80]),
                f"correct the record, or {_DISTRACTOR}",
            )
        # Two paragraphs may have one title. That with the supporting sentence is meant.
        reached = (at for at in places if sentence < len(titled[at][1]))
        gold[next(reached, places[0])] = None
    return paragraphs, tuple(gold)


def _context(path: Path, number: int, context: Any) -> Iterator[tuple[str, list[str]]]:
    """Title and sentences of each paragraph: of pairs, of the hub's two lists, or of objects."""
    if isinstance(context, dict):
        sentences = context.get("sentences", context.get("content"))
        titles = context.get("title")
        if not isinstance(titles, list) or not isinstance(sentences, list):
            raise _malformed(path, number, _CONTEXT, context)
        if len(titles) != len(sentences):
            lists = counted(len(sentences), "list")
            got = f"{counted(len(titles), 'title')} and {lists} of sentences"
            raise invalid(path, number, "as many titles as lists of sentences", got, "correct it")
        context = list(zip(titles, sentences, strict=True))
    if not isinstance(context, list):
        raise _malformed(path, number, _CONTEXT, context)
    for entry in context:
        if isinstance(entry, dict):
            entry = [entry.get("title"), entry.get("sentences")]
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str):
            raise _malformed(path, number, _CONTEXT, entry)
        title, sentences = entry
        if not isinstance(sentences, list) or not all(isinstance(part, str) for part in sentences):
            got = type_name(sentences) if not isinstance(sentences, list) else "other values in it"
            raise invalid(
                path,
                number,
                "the sentences of every paragraph as a list of strings",
                f"{got} under {title[:80]!r}",
                "correct the record",
            )
        yield title, sentences


_CONTEXT = '"context" to be pairs [title, sentences] or {"title": [...], "sentences": [[...]]}'
_FACTS = '"supporting_facts" to be pairs [title, sentence] or {"title": [...], "sent_id": [...]}'


def _malformed(path: Path, number: int, expected: str, value: Any) -> Exception:
    return invalid(
        path,
        number,
        expected,
        f"{type_name(value)} ({str(value)[:60]!r})",
        "correct the record",
    )


def _no_paragraph(path: Path, number: int, name: str) -> Exception:
    return invalid(path, number, f'paragraphs in "{name}"', "none", "correct the record")


def _joined(sentences: list[str]) -> str:
    """The text of sentences. HotpotQA's bring the spaces between them, 2WikiMultihopQA's do not."""
    brought = any(sentence[:1].isspace() for sentence in sentences[1:])
    return one_line_text(("" if brought else " ").join(sentences))


def _facts(path: Path, number: int, facts: Any) -> Iterator[tuple[str, int]]:
    """Title and sentence of each supporting fact."""
    if isinstance(facts, dict):
        titles, places = facts.get("title"), facts.get("sent_id")
        if isinstance(titles, list) and isinstance(places, list) and len(titles) == len(places):
            facts = list(zip(titles, places, strict=True))
    if facts is not None and not isinstance(facts, list):
        raise _malformed(path, number, _FACTS, facts)
    for fact in facts or ():
        if not isinstance(fact, list | tuple) or len(fact) != 2:
            raise _malformed(path, number, _FACTS, fact)
        title, place = fact
        if not isinstance(title, str) or type(place) is not int:
            raise _malformed(path, number, _FACTS, fact)
        yield title, place


def _musique(
    path: Path, number: int, record: dict[str, Any]
) -> tuple[tuple[Paragraph, ...], tuple[int, ...]]:
    """Paragraphs and gold positions of `paragraphs`, gold ones in the order of their hops."""
    entries = record["paragraphs"]
    if not isinstance(entries, list) or not entries:
        raise _no_paragraph(path, number, "paragraphs")
    paragraphs: list[Paragraph] = []
    supporting: list[int] = []
    places: dict[Any, int] = {}
    for at, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        title, text = fields.get("title") or "", fields.get("paragraph_text")
        flag = fields.get("is_supporting", False)
        if not isinstance(title, str) or not isinstance(text, str) or not isinstance(flag, bool):
            raise invalid(
                path,
                number,
                'every paragraph with "title", "paragraph_text" and "is_supporting"',
                f"{type_name(entry)} ({str(entry)[:60]!r})",
                "correct the record",
            )
        paragraphs.append(Paragraph(one_line_text(title), one_line_text(text)))
        places[fields.get("idx", at)] = at
        if flag:
            supporting.append(at)
    steps = record.get("question_decomposition")
    named = (
        places.get(step.get("paragraph_support_idx"))
        for step in (steps if isinstance(steps, list) else ())
        if isinstance(step, dict)
    )
    in_order = [at for at in named if at is not None and at in supporting]
    return tuple(paragraphs), tuple(dict.fromkeys([*in_order, *supporting]))


def _hops(identifier: str) -> str:
    """The type of a MuSiQue question, which its id begins with: `3hop1`."""
    found = _HOPS.match(identifier)
    return found[1] if found else ""
