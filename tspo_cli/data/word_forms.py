"""Find an answer in a text as whole words, however the two are punctuated.

Every punctuation mark may be read as a space or as nothing: `U.S.` is in `US-based`, `1967` is in
`1967-1990`, and `May` is not in `mayor`. Case, diacritics, Unicode composition and articles do not
count. The commas inside a number are read as nothing alone: `500` is not in `1,500`. A decimal
point is no comma: `3.5` is not in `35`, and a slash or a power between digits is a space: `12` is
not in `1/2`, nor `102` in `10^2`. Where letters or digits meet a script without spaces between
words, or Hangul, a mark is read: `1967` is in `1967年`. A Korean particle may follow an answer. A
plus or number sign at the end of a word of an answer counts: `C++` is not in `vitamin C`.
`plain_letters.py` has the plain forms of other characters.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tspo_cli.data.corpus.unspaced import UNSPACED
from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.text import long_search
from tspo_cli.text.code_points import Places, codes_of, spelled, text_of, translated, without
from tspo_cli.text.long_search import Spans
from tspo_cli.text.number_marks import DECIMAL, INSIDE, with_whole_numbers
from tspo_cli.text.plain_letters import LETTERS, PLAIN_FORMS

MARK = "-"
"""Stands for every punctuation mark and symbol in a readable text, and between scripts."""
SIGNS = "+#"
"""Signs that a readable text keeps. They separate words as marks do."""
SEPARATOR = re.compile(f"[{INSIDE}{DECIMAL}{SIGNS}{MARK}]")
"""One mark of a readable text."""
# Signs of an answer that do not end a word of letters.
_LOOSE_SIGNS = re.compile(r"(?<![+#])(?:(?<![^\W\d_])[+#]+|[+#]++(?=\w))")
# Accents; vowel signs of Hebrew and Arabic, and the stroke that widens Arabic words.
_DIACRITICS = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670]+"
)
_IS_DIACRITIC = np.array([bool(_DIACRITICS.match(chr(code))) for code in range(0x672)])
# An article becomes one character, which separates words like a space: "Hepatitis A" ends with its
# "a", which is no article there. No text holds these characters: controls become spaces.
_ARTICLE = {"the": "\1", "a": "\2", "an": "\3"}
# U.S.A keeps its last letter: no mark stands before the article "a".
_ARTICLES = (" the ", " a ", " an ", f"{MARK}the ", f"{MARK}an ")
_BORDER = f" \1-\3{SIGNS}-"
_PARTS = re.compile(f"[^{_BORDER}]+|[{_BORDER}]+")
_LAST_ARTICLE = re.compile(f"(?<=[{_BORDER}])(the|an?)$")
_LETTER = re.compile(f"([^{INSIDE}{DECIMAL}{_BORDER}])([{INSIDE}{DECIMAL}{_BORDER}]*)")
# What stands between letters, as `long_search` distinguishes it.
_KINDS = (
    (" \1\2\3", long_search.SPACE),
    (DECIMAL, long_search.POINT),
    (INSIDE, long_search.COMMA),
    (SIGNS, long_search.SIGN),
    (MARK, long_search.MARK),
)
_MUCH = 1 << 17
"""Letters of a text times those of an answer from which a search by `long_search` is faster."""
_SEPARATORS = dict.fromkeys(map(ord, f" {MARK}{INSIDE}{DECIMAL}{SIGNS}\1\2\3"))
_IS_SEPARATOR = np.isin(np.arange(128), list(_SEPARATORS))
# Letters by their category that are written as apostrophes, as in Hawaiʻi.
_APOSTROPHES = "\u02b9\u02bb\u02bc\u02bd\u02be\u02bf"
_UNSPACED = re.compile(f"[{UNSPACED}]")
# Scripts that words of other letters and of digits are written into: those without spaces, Hangul.
_SCRIPTS = (f"{UNSPACED}\u3099\u309a", "\u1100-\u11ff\uac00-\ud7a3")
_END_OF_SCRIPTS = 0x40000

# Korean particles of case and topic, and the copula, which are written at the end of a word: those
# that follow a vowel, a consonant, and both.
LONGEST_PARTICLE = 3
"""Syllables."""
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
    """What a character becomes in lower case, accents included. Filled as characters occur."""

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
    punctuation, `MARK` between scripts and a control character for each article, without
    diacritics.
    """
    if not unicodedata.is_normalized("NFKC", text):  # what is normalised has its plain form
        text = translated(text, PLAIN_FORMS)
    text = with_whole_numbers(text)
    if text.isascii():
        return _mark_articles(f" {text.lower().translate(_CHARACTERS)}")
    # Diacritics go last: without its accent, "\u00e0" would be an article.
    folded = translated(unicodedata.normalize("NFD", text), _FOLDED)
    plain, _ = without(_mark_articles(f" {folded}"), _IS_DIACRITIC)
    return _with_marked_scripts(unicodedata.normalize("NFC", plain))[0]


def _mark_articles(words: str) -> str:
    for article in _ARTICLES:
        words = words.replace(article, f"{article[0]}{_ARTICLE[article[1:-1]]} ")
    return words


def _with_marked_scripts(words: str) -> tuple[str, Places]:
    """`words` with a mark where two of `_SCRIPTS`, or one and other letters, meet, and the places
    in `words` where they do.
    """
    if words.isascii():
        return words, np.zeros(0, np.int64)
    codes = codes_of(words)
    scripts = _script_of_codes()[np.minimum(codes, np.uint32(_END_OF_SCRIPTS))]
    before, behind = scripts[:-1], scripts[1:]
    meets = np.flatnonzero((before != behind) & (before != 0) & (behind != 0)) + 1
    if not len(meets):
        return words, meets
    return text_of(np.insert(codes, meets, ord(MARK)).astype(np.uint32, copy=False)), meets


@lru_cache(maxsize=1)
def _script_of_codes() -> npt.NDArray[np.uint8]:
    """For every code point 0 if it separates words, the number of its script, or 1."""
    chars = "".join(map(chr, range(_END_OF_SCRIPTS + 1)))
    numbers = np.ones(len(chars), np.uint8)
    numbers[list(_SEPARATORS)] = 0
    for number, script in enumerate(_SCRIPTS, start=2):
        for run in re.finditer(f"[{script}]+", chars):
            numbers[run.start() : run.end()] = number
    return numbers


@dataclass(frozen=True, slots=True)
class Readable:
    """A text to search in: `words` as `readable` gives them, `letters` without separators."""

    words: str
    letters: str

    @classmethod
    def of(cls, text: str) -> Readable:
        """`text`, ready to be searched."""
        return cls.of_words(readable(text))

    @classmethod
    def of_words(cls, words: str) -> Readable:
        """Words that are readable, ready to be searched."""
        if words.isascii():
            return cls(words, words.translate(_SEPARATORS))
        return cls(words, without(words, _IS_SEPARATOR)[0])


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
        if self.letters not in text.letters:
            return False
        if self._is_short(text):
            return self.pattern.search(text.words) is not None
        return len(self._long_spans(text)) > 0

    def spans_in(self, text: Readable) -> Spans:
        """Where the answer stands in the words of a text, from left to right."""
        if self.letters not in text.letters:
            return long_search.as_spans([])
        if self._is_short(text):
            return long_search.as_spans([*map(re.Match.span, self.pattern.finditer(text.words))])
        return long_search.apart(self._long_spans(text))

    def _is_short(self, text: Readable) -> bool:
        return len(text.letters) * len(self.letters) < _MUCH

    def _long_spans(self, text: Readable) -> Spans:
        """`spans_in` by bits; spans may overlap."""
        letters, is_exact = _gaps(self.words)
        last = self.words[-1]
        long_text = long_search.long_text(text.words, _KINDS)
        found, is_whole = long_search.starts(
            letters,
            long_text,
            begins=not _UNSPACED.match(self.words[0]),
            ends=is_exact and not _UNSPACED.match(last),
        )
        begins = long_text.places[found]
        if not (is_exact and is_whole):
            return long_search.matches(self.pattern, text.words, begins)
        ends = long_text.places[found + len(letters) - 1] + 1
        return np.stack((begins, ends), axis=1)


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


@lru_cache(maxsize=16)
def _gaps(words: str) -> tuple[list[long_search.Letter], bool]:
    """The letters of an answer with what may stand behind each, and whether this says as much as
    its pattern: not of signs, of an article at its end, and of what a particle may follow.
    """
    body = _LAST_ARTICLE.sub("", words)
    is_exact = body == words and words[-1] not in SIGNS and not _particles(words[-1])
    letters = []
    for letter, gap in _LETTER.findall(body):
        signs = gap[:1] in SIGNS if gap else False
        name = "some" if signs or " " in gap else "any" if gap else "within a word"
        letters.append(long_search.Letter(ord(letter), "decimal point" if gap == DECIMAL else name))
        is_exact = is_exact and not signs
    letters[-1] = long_search.Letter(letters[-1].code, "any")
    return letters, is_exact


def is_hangul(letter: str) -> bool:
    """True for a Korean syllable."""
    return "\uac00" <= letter <= "\ud7a3"


def _particles(last: str) -> str:
    """The pattern of the particle that may follow a Korean answer with this last syllable."""
    if not is_hangul(last):
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


def spans(text: str, answers: list[Wanted]) -> Spans:
    """Where the answers stand in `text`, from left to right, the longest first, without overlaps,
    as starts and ends of shape [n, 2].
    """
    plain, of_plain = spelled(text, PLAIN_FORMS)
    folded, of_folded = spelled(with_whole_numbers(plain), _FOLDED)
    with_articles, of_articles = _with_articles(f" {folded}")
    plain_words, is_plain = without(with_articles, _IS_DIACRITIC)
    words, meets = _with_marked_scripts(plain_words)
    of_plain_words = np.flatnonzero(is_plain)
    of_words = np.insert(np.arange(len(plain_words)), meets, meets)

    def places(at: Places) -> Places:
        behind_space = np.maximum(of_articles[of_plain_words[of_words[at]]] - 1, 0)
        return of_plain[of_folded[behind_space]]

    in_words = Readable.of_words(words)
    found = np.concatenate(
        [long_search.as_spans([]), *(answer.spans_in(in_words) for answer in answers)]
    )
    if not len(found):
        return found
    if len(answers) > 1:
        found = found[np.lexsort((-found[:, 1], found[:, 0]))]
    first, last = np.ascontiguousarray(found.T)
    return long_search.apart(np.stack((places(first), places(last - 1) + 1), axis=1))


def _with_articles(words: str) -> tuple[str, Places]:
    """`words` with their articles marked, and the places in `words` of what is left."""
    marked = _mark_articles(words)
    if marked == words:
        return words, np.arange(len(words))
    codes = codes_of(marked)
    lengths = np.ones(len(codes), np.int64)
    for article, char in _ARTICLE.items():
        lengths[codes == ord(char)] = len(article)
    return marked, np.cumsum(lengths) - lengths
