"""Find an answer in a text as whole words, however the two are punctuated.

Every punctuation mark may be read as a space or as nothing: `U.S.` is in `US-based`, `1967` is in
`1967-1990`, and `May` is not in `mayor`. Case, diacritics, Unicode composition and articles do not
count. The commas inside a number are read as nothing alone: `500` is not in `1,500`. A decimal
point is no comma: `3.5` is not in `35`, and a slash between digits is a space: `12` is not in
`1/2`. A Korean particle may follow an answer. A plus or number sign at the end of a word of an
answer counts: `C++` is not in `vitamin C`. `plain_letters.py` has the plain forms of other
characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat

from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.text.plain_letters import LETTERS, PLAIN_FORMS

MARK = "-"
"""Stands for every punctuation mark and symbol in a readable text."""
INSIDE, DECIMAL = "\x1f", "\x1e"
"""Stand for the commas and for the point inside a number of a readable text. (ASCII, so that ASCII
stays fast.)
"""
SIGNS = "+#"
"""Signs that a readable text keeps. They separate words as marks do."""
SEPARATOR = re.compile(f"[{INSIDE}{DECIMAL}{SIGNS}{MARK}]")
"""One mark of a readable text."""
# A number begins with a digit that follows no digit, point or comma. (The digit first: patterns
# that begin with a character are searched much faster.)
_NUMBERS = re.compile(
    r"[0-9](?<![0-9.,].)(?:[0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]*\.[0-9]+)(?![.,]?[0-9])"
)
_SLASH = re.compile("[/\u2044](?<=[0-9].)(?=[0-9])")
# Such a point may stand between thousands.
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}\.[0-9]{3}")
# Signs of an answer that do not end a word of letters.
_LOOSE_SIGNS = re.compile(r"(?<![+#])(?:(?<![^\W\d_])[+#]+|[+#]++(?=\w))")
# Accents; vowel signs of Hebrew and Arabic, and the stroke that widens Arabic words.
_DIACRITICS = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670]+"
)
# An article becomes one character, which separates words like a space: "Hepatitis A" ends with its
# "a", which is no article there. No text holds these characters: controls become spaces.
_ARTICLE = {"the": "\1", "a": "\2", "an": "\3"}
# U.S.A keeps its last letter: no mark stands before the article "a".
_ARTICLES = (" the ", " a ", " an ", f"{MARK}the ", f"{MARK}an ")
_BORDER = f" \1-\3{SIGNS}-"
_PARTS = re.compile(f"[^{_BORDER}]+|[{_BORDER}]+")
_LAST_ARTICLE = re.compile(f"(?<=[{_BORDER}])(the|an?)$")
_SEPARATORS = dict.fromkeys(map(ord, f" {MARK}{INSIDE}{DECIMAL}{SIGNS}\1\2\3"))
# Letters by their category that are written as apostrophes, as in Hawaiʻi.
_APOSTROPHES = "\u02b9\u02bb\u02bc\u02bd\u02be\u02bf"
# Scripts without spaces between words: Thai, Lao, Khmer, kana and Han.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")

# Korean particles of case and topic, and the copula, which are written at the end of a word: those
# that follow a vowel, a consonant, and both.
_AFTER_VOWEL = "는|가|를|와|로|다"
_AFTER_CONSONANT = "은|이|을|과|로|으로|이다"
_AFTER_BOTH = "의|에|에서|에게|도|만|부터|까지|입니다"


class _Characters(dict[int, str]):
    """What a character becomes: itself, a space, a mark or nothing. Filled as characters occur."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char.isspace() or category == "Cc":
            value = " "
        elif category == "Cf":  # soft hyphens and characters without width
            value = ""
        elif category[0] in "PS" or char in _APOSTROPHES:
            value = MARK
        else:
            value = char
        self[code] = value
        return value


class _Folded(dict[int, str]):
    """What a character becomes in `spans`, accents included. Filled as characters occur."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        parts = unicodedata.normalize("NFD", char)
        letter = parts if _DIACRITICS.search(parts) else char
        value = self[code] = letter.casefold().translate(_CHARACTERS)
        return value


_CHARACTERS = _Characters({ord(char): char for char in (INSIDE, DECIMAL, *SIGNS)} | LETTERS)
_FOLDED = _Folded()


def readable(text: str) -> str:
    """`text` in lower case and plain letters, with `MARK`, `INSIDE`, `DECIMAL` and `SIGNS` for
    punctuation and a control character for each article, without diacritics.
    """
    if not unicodedata.is_normalized("NFKC", text):  # what is normalised has its plain form
        text = text.translate(PLAIN_FORMS)
    text = _with_whole_numbers(text)
    if text.isascii():
        return _mark_articles(f" {text.lower().translate(_CHARACTERS)}")
    # Diacritics go last: without its accent, "\u00e0" would be an article.
    folded = unicodedata.normalize("NFD", text).casefold().translate(_CHARACTERS)
    plain = _DIACRITICS.sub("", _mark_articles(f" {folded}"))
    return unicodedata.normalize("NFC", plain)


def _with_whole_numbers(text: str) -> str:
    """`text` with `INSIDE` for the mark of `1,500`, `DECIMAL` for that of `3.5` and a space for
    that of `1/2`; dates such as 4.7.1776 keep theirs.

    Every character keeps its place.
    """
    text = _SLASH.sub(" ", text.replace(INSIDE, " ").replace(DECIMAL, " "))
    return _NUMBERS.sub(lambda number: _whole(number.group()), text)


def _whole(number: str) -> str:
    point = INSIDE if _THOUSANDS.fullmatch(number) else DECIMAL
    return number.replace(",", INSIDE).replace(".", point)


def _mark_articles(words: str) -> str:
    for article in _ARTICLES:
        words = words.replace(article, f"{article[0]}{_ARTICLE[article[1:-1]]} ")
    return words


@dataclass(frozen=True, slots=True)
class Readable:
    """A text to search in: `words` as `readable` gives them, `letters` without separators."""

    words: str
    letters: str

    @classmethod
    def of(cls, text: str) -> Readable:
        """`text`, ready to be searched."""
        words = readable(text)
        return cls(words, words.translate(_SEPARATORS))


@dataclass(frozen=True, slots=True)
class Wanted:
    """An answer to look for: its readable `words`, and its `letters` without separators."""

    words: str
    letters: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """Finds the answer in readable words."""
        return _pattern(self.words)

    @property
    def is_spaced(self) -> bool:
        """False where it begins or ends in a script without spaces, whose words have no borders."""
        return not (_UNSPACED.match(self.words[0]) or _UNSPACED.match(self.words[-1]))

    def is_in(self, text: Readable) -> bool:
        """True if the text contains the answer."""
        return self.letters in text.letters and self.pattern.search(text.words) is not None


@lru_cache(maxsize=65536)
def wanted(answer: str) -> Wanted | None:
    """The answer as it is looked for; None for an article, and without letters and digits."""
    words = readable(answer).replace(INSIDE, MARK)
    words = _LOOSE_SIGNS.sub(lambda signs: MARK * len(signs.group()), words)
    words = words.strip(f" {MARK}\1\2\3")
    if not words or words in _ARTICLE or not normalize_answer(answer):
        return None
    return Wanted(words, _LAST_ARTICLE.sub("", words).translate(_SEPARATORS))


@lru_cache(maxsize=16384)
def _pattern(words: str) -> re.Pattern[str]:
    last = _LAST_ARTICLE.search(words)
    body = "".join(map(_part, _PARTS.findall(words[: last.start()] if last else words)))
    body += f"(?:{_part(last[0])}|{_ARTICLE[last[0]]})" if last else ""
    left = "" if _UNSPACED.match(words[0]) else f"(?<![^{_BORDER}])"
    right = "" if _UNSPACED.match(words[-1]) else f"(?={_particles(words[-1])}(?![^{_BORDER}]))"
    right = f"(?![{SIGNS}])" if words[-1] in SIGNS else right
    return re.compile(f"{left}{body}{right}")


def _particles(last: str) -> str:
    """The pattern of the particle that may follow a Korean answer with this last syllable."""
    if not "\uac00" <= last <= "\ud7a3":
        return ""
    ends_in_vowel = (ord(last) - 0xAC00) % 28 == 0
    return f"(?:{_AFTER_BOTH}|{_AFTER_VOWEL if ends_in_vowel else _AFTER_CONSONANT})?"


def _part(part: str) -> str:
    """The pattern of letters, between which marks may stand, or of separators, before which signs
    may stand.
    """
    if ord(part[0]) not in _SEPARATORS:
        between = f"[{INSIDE}{SIGNS}{MARK}]*+"
        runs = (between.join(map(re.escape, run)) for run in part.split(DECIMAL))
        return f"[{DECIMAL}{MARK}]++".join(runs)
    rest = part.lstrip(SIGNS)
    signs = re.escape(part[: len(part) - len(rest)])
    return signs + (f"[{INSIDE}{DECIMAL}{_BORDER}]" + ("+" if " " in rest else "*") if rest else "")


def spans(text: str, answers: list[Wanted]) -> list[tuple[int, int]]:
    """Where the answers stand in `text`, as (start, end), from left to right, the longest first,
    without overlaps.
    """
    plain, places = _spelled(text, range(len(text)), PLAIN_FORMS)
    words, places = _spelled(_with_whole_numbers(plain), places, _FOLDED)
    words, places = f" {words}", [0, *places]
    for article in _ARTICLES:
        edits = [(found.start() + 1, found.end() - 1) for found in re.finditer(article, words)]
        words, places = _edited(words, places, edits, _ARTICLE)
    edits = [found.span() for found in _DIACRITICS.finditer(words)]
    words, places = _edited(words, places, edits, {})
    found = sorted(
        (match.start(), -match.end())
        for answer in answers
        for match in answer.pattern.finditer(words)
    )
    result: list[tuple[int, int]] = []
    for start, end in found:
        span = (places[start], places[-end - 1] + 1)
        if not result or span[0] >= result[-1][1]:
            result.append(span)
    return result


def _spelled(text: str, places: Sequence[int], forms: dict[int, str]) -> tuple[str, Sequence[int]]:
    """`text` with the form of every character in its place, and the places of the result."""
    spelled = list(map(forms.__getitem__, map(ord, text)))
    if max(map(len, spelled), default=1) > 1 or "" in spelled:
        lengths = map(len, spelled)
        places = list(chain.from_iterable(map(repeat, places, lengths)))
    return "".join(spelled), places


def _edited(
    words: str, places: Sequence[int], edits: list[tuple[int, int]], becomes: Mapping[str, str]
) -> tuple[str, Sequence[int]]:
    """`words` with every piece at the spans `edits` replaced by the character that it `becomes`, or
    by nothing, and the places of what is left. In one pass.
    """
    if not edits:
        return words, places
    pieces: list[str] = []
    kept: list[int] = []
    done = 0
    for start, end in edits:
        new = becomes.get(words[start:end], "")
        pieces += [words[done:start], new]
        kept += places[done : start + len(new)]
        done = end
    return "".join([*pieces, words[done:]]), [*kept, *places[done:]]
