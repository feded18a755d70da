"""Invented names of two words. Each word has two syllables and is shared by a few entities."""

from __future__ import annotations

import random

ONSETS = "b d f g h j k l m n p r s t v w z bl br dr fl gr kl kr pl pr sh sk st tr".split()  # noqa: SIM905
VOWELS = "a e i o u".split()  # noqa: SIM905
SYLLABLES = tuple(onset + vowel for onset in ONSETS for vowel in VOWELS)
"""Every syllable ends with its only vowel: a word has a unique division into syllables."""


def name_word(first: int, second: int) -> str:
    """The name word of two syllable indices."""
    return (SYLLABLES[first] + SYLLABLES[second]).capitalize()


def draw_words(rng: random.Random, count: int, taken: set[str]) -> list[str]:
    """`count` distinct name words that are not in `taken` (lower case). They are added to it."""
    words: list[str] = []
    while len(words) < count:
        word = name_word(rng.randrange(len(SYLLABLES)), rng.randrange(len(SYLLABLES)))
        if word.lower() not in taken:
            taken.add(word.lower())
            words.append(word)
    return words


def draw_names(rng: random.Random, count: int, sharing: float, taken: set[str]) -> list[str]:
    """`count` distinct names. Each of their words occurs in about `sharing` names."""
    words = draw_words(rng, max(3, round(2 * count / sharing)), taken)
    while len(words) * (len(words) - 1) < 2 * count:
        words += draw_words(rng, 1, taken)
    # All words are used about equally often: a rare word would identify its entity for the
    # retriever.
    names: list[str] = []
    seen: set[str] = set()
    deck: list[str] = []
    while len(names) < count:
        if len(deck) < 2:
            deck = rng.sample(words, len(words))
        name = f"{deck.pop()} {deck.pop()}"
        if name not in seen:
            seen.add(name)
            names.append(name)
    return names
