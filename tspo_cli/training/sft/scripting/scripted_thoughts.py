"""What a scripted agent thinks: plain sentences of at most about 60 words, of a few templates.

A thought says what is known, what is missing and what is asked for; the last one names the passage
that gives the answer, and may quote it. Titles and names are cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal

import numpy as np

from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.data.word_forms import spans, wanted
from tspo_cli.retrieval.types import Hit

# The space first: patterns that begin with a character are searched faster.
_SENTENCE_END = re.compile(r"\s(?<=[.!?].)(?:(?<=[^\W\d_]{3}..)|(?<=[\d\])]..))", re.DOTALL)
_MOST_QUOTED = 40
Why = Literal["question", "rest of question", "named in question", "named in passage"]
"""Where the words of a query come from."""

_FIRST = {
    "question": (
        "I do not know the answer yet. I will search for what the question asks.",
        "I need facts to answer this, so I search with the question first.",
        "Nothing is known yet. The question itself is the best first search.",
    ),
    "named in question": (
        "The question names {name}. I will look that up first.",
        "I need to know more about {name}, so I search for it.",
        "First I have to find out about {name}, which the question mentions.",
    ),
}
_NEXT = {
    "question": (
        "I have read about {known}. The answer is still missing, so I search for the question.",
        "The passage on {known} is not enough. I search with the whole question.",
    ),
    "rest of question": (
        "{known} alone does not answer the question. I search for the rest of it.",
        "I have read about {known}. Now I search for what else the question says.",
    ),
    "named in question": (
        "I know about {known} now. {name} is still missing, so I search for it.",
        "The passage on {known} helps. The question also names {name}, which I look up next.",
        "{known} is covered. I still need facts about {name}.",
    ),
    "named in passage": (
        "The passage on {known} mentions {name}. I still need to know about it, so I search for "
        "{name}.",
        "{known} leads to {name}. What I need about {name} is missing, so I look it up.",
        "From {known} I learn of {name}. The next search is for {name}.",
    ),
}
_SAME_NAME = (
    "The passage on {known} is not enough. I look for another one about it.",
    "I need more about {name} than this passage says, so I search for it.",
)
_USELESS = (
    "These passages do not help.",
    "This search found nothing useful. I have to be more precise.",
    "That was the wrong search; I need other words.",
)
_ANSWER = (
    "The passage on {title} gives the answer.",
    "{title} has what I was looking for, so I can answer.",
    "I found it in the passage on {title}.",
)
_ANSWER_BOTH = (
    "I know about {titles} now. The answer follows from {title}.",
    "With the passages on {titles} I can answer; {title} says it.",
)
_QUOTE = (
    "The passage on {title} says: {quote}",
    "I found it in the passage on {title}: {quote}",
)
_UNQUOTED = (
    "The passage on {title} gives the answer.",
    "I found it in the passage on {title}.",
)
_COMPARE = (
    "The passages on {titles} tell me enough to compare them.",
    "I have read about {titles}, so I can decide.",
)
_GUESS = (
    "I will answer with what I have found so far in the passage on {title}.",
    "{title} should be enough for an answer.",
)


def search_thought(rng: Random, why: Why, name: str, known: str, *, useless: bool = False) -> str:
    """Why the next search is made. `known` is the title of the passage that led there, empty if no
    useful passage was read. `useless`: the search before found none.
    """
    templates = _SAME_NAME if name and name == known else (_NEXT if known else _FIRST)[why]
    template = rng.choice(templates)
    text = template.format(name=short(name), known=short(known))
    return f"{rng.choice(_USELESS)} {text}" if useless else text


def answer_thought(
    rng: Random,
    source: Hit | None,
    known: Sequence[Hit],
    question: str,
    answer: str,
    *,
    quote: bool = True,
) -> str:
    """Why the answer is known: it stands in `known` passages, or (`source` is None) follows from
    all of them. `quote`: with the sentence that holds it.
    """
    names = list(dict.fromkeys(map(called, known)))
    if source is None and len(names) > 1:
        return rng.choice(_COMPARE).format(titles=_listed(names))
    best, sentence = _quotation(known, question, answer) if source else (None, "")
    title = short(called(best or source or known[-1]))
    if sentence:
        return rng.choice(_QUOTE if quote else _UNQUOTED).format(title=title, quote=sentence)
    return rng.choice(_ANSWER_BOTH if len(names) > 1 else _ANSWER).format(
        title=title, titles=_listed(names)
    )


def _quotation(known: Sequence[Hit], question: str, answer: str) -> tuple[Hit | None, str]:
    """The sentence with the answer that shares most words with the question, the later passage
    first, and its passage; None and nothing where no sentence of usual length has the answer.
    """
    asked = set(normalize_answer(question).split())
    best: tuple[int, Hit | None, str] = (-1, None, "")
    for hit in reversed(known):
        for quote in _sentences_with(hit.text, answer):
            shared = len(asked.intersection(normalize_answer(quote).split()))
            if shared > best[0]:
                best = (shared, hit, quote)
    return best[1], best[2]


def _sentences_with(text: str, answer: str) -> Iterator[str]:
    """The sentences of `text` that hold the answer, whole: a cut would show where it stands."""
    form = wanted(answer)
    found = spans(text, [form] if form else [])
    if not len(found):
        return
    borders = np.array([-1, *(end.start() for end in _SENTENCE_END.finditer(text)), len(text)])
    begins, ends = np.ascontiguousarray(found.T)
    first = borders[np.searchsorted(borders, begins) - 1] + 1
    last = borders[np.searchsorted(borders, ends)]
    # Both only grow: those of the same sentences follow each other.
    is_new = np.append(True, (np.diff(first) > 0) | (np.diff(last) > 0))
    for start, end in zip(first[is_new].tolist(), last[is_new].tolist(), strict=True):
        words = text[start:end].split(maxsplit=_MOST_QUOTED)
        if len(words) <= _MOST_QUOTED:
            yield " ".join(words)


def guess_thought(rng: Random, source: Hit) -> str:
    """Why the agent answers although a passage is missing."""
    return rng.choice(_GUESS).format(title=short(called(source)))


def short(text: str, words: int = 6) -> str:
    """The first words of a title or of a name."""
    return " ".join(text.split()[:words])


def plain_title(title: str) -> str:
    """A title without the parentheses at its end, which tell it from others of the same name."""
    whole, opening = title.rstrip(), title.rfind("(")
    in_parentheses = opening >= 0 and whole.find(")", opening) == len(whole) - 1
    return title[:opening].rstrip() or title if in_parentheses else title


def called(hit: Hit) -> str:
    """What a thought calls a passage: its title, or its first words where it has none."""
    return plain_title(hit.title).strip() or short(hit.text, 4)


def _listed(titles: Sequence[str]) -> str:
    names = [short(title, 4) for title in titles][:4]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
