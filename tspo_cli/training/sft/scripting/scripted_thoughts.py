"""What a scripted agent thinks: plain sentences of at most about 35 words, of a few templates.

A thought says what is known, what is missing and what is asked for. Titles and names are cut to a
few words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Literal

from tspo_cli.retrieval.types import Hit

_IN_PARENTHESES = re.compile(r"\s*\([^()]*\)\s*$")
Why = Literal["question", "named in question", "named in passage"]
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
        "{known} alone does not answer the question. I search for the rest of it.",
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
    template = rng.choice((_NEXT if known else _FIRST)[why])
    text = template.format(name=short(name), known=short(known))
    return f"{rng.choice(_USELESS)} {text}" if useless else text


def answer_thought(rng: Random, source: Hit | None, known: Sequence[Hit]) -> str:
    """Why the answer is known: it stands in `source`, or (None) follows from `known` passages."""
    names = list(dict.fromkeys(map(called, known)))
    if source is None and len(names) > 1:
        return rng.choice(_COMPARE).format(titles=_listed(names))
    title = short(called(source or known[-1]))
    return rng.choice(_ANSWER_BOTH if len(names) > 1 else _ANSWER).format(
        title=title, titles=_listed(names)
    )


def guess_thought(rng: Random, source: Hit) -> str:
    """Why the agent answers although a passage is missing."""
    return rng.choice(_GUESS).format(title=short(called(source)))


def short(text: str, words: int = 6) -> str:
    """The first words of a title or of a name."""
    return " ".join(text.split()[:words])


def plain_title(title: str) -> str:
    """A title without the parentheses at its end, which tell it from others of the same name."""
    return _IN_PARENTHESES.sub("", title) or title


def called(hit: Hit) -> str:
    """What a thought calls a passage: its title, or its first words where it has none."""
    return plain_title(hit.title).strip() or short(hit.text, 4)


def _listed(titles: Sequence[str]) -> str:
    names = [short(title, 4) for title in titles][:4]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
