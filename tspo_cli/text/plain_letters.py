"""Plain forms of letters and numbers for the search of answers: full-width letters, Arabic
presentation forms, Roman numerals, superscripts and fractions as the characters that they stand
for, and plain letters for those that Unicode does not decompose.
"""

from __future__ import annotations

import unicodedata

LETTERS = {
    ord("\N{LATIN SMALL LETTER AE}"): "ae",
    ord("\N{LATIN SMALL LIGATURE OE}"): "oe",
    ord("\N{LATIN SMALL LETTER O WITH STROKE}"): "o",
    ord("\N{LATIN SMALL LETTER L WITH STROKE}"): "l",
    ord("\N{LATIN SMALL LETTER D WITH STROKE}"): "d",
    ord("\N{LATIN SMALL LETTER ETH}"): "d",
    ord("\N{LATIN SMALL LETTER H WITH STROKE}"): "h",
    ord("\N{LATIN SMALL LETTER T WITH STROKE}"): "t",
    ord("\N{LATIN SMALL LETTER THORN}"): "th",
    ord("\N{LATIN SMALL LETTER DOTLESS I}"): "i",
    ord("\N{MUSIC SHARP SIGN}"): "#",
}
"""What letters in lower case, and the sharp sign, are written as in plain ASCII."""
_SUPERSCRIPT_PLUS = "\N{SUPERSCRIPT PLUS SIGN}"
# A footnote's number is no part of the word before it, nor is a fraction of the number before it.
_SET_APART = {"<super>": "^{}", "<fraction>": " {}", "<circle>": " {} "}


class _PlainForms(dict[int, str]):
    """What a character stands for; itself where it is plain. Filled as characters occur."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        tag = unicodedata.decomposition(char).partition(" ")[0]
        value = char
        if tag[:1] == "<" and (
            unicodedata.category(char)[0] in "LN"
            or tag in ("<wide>", "<narrow>")
            or 0x2E80 <= code < 0x2FE0  # radicals that stand for Han characters
            or char == _SUPERSCRIPT_PLUS
        ):
            form = _SET_APART.get(tag, "{}") if char != _SUPERSCRIPT_PLUS else "{}"
            value = form.format(unicodedata.normalize("NFKC", char))
        self[code] = value
        return value


PLAIN_FORMS = _PlainForms()
"""For `str.translate`. Signs such as the trade mark stay signs: they are no part of a word."""
