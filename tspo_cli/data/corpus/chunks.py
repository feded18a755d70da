"""Long documents as several passages of a fixed number of words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from tspo_cli.data.corpus.unspaced import MARKS, UNSPACED
from tspo_cli.data.question import Passage

_WORD = re.compile(rf"[{UNSPACED}][{MARKS}]*|[^\s{UNSPACED}]+")
_CHUNK_ID = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are cut. A word is what stands between spaces; in scripts without spaces, each
    letter counts as one.
    """

    words: int = 0
    """Most words in a chunk. 0: documents stay whole."""
    overlap: int = 0
    """Words at the end of a chunk that the next one repeats; fewer than `words`."""


WHOLE = Chunking()


def chunks(document: Passage, how: Chunking) -> Iterator[Passage]:
    """The document itself if its text is short enough, else its chunks in order.

    Chunk number n of the document `doc` has the id `doc#n`, from 0, and the title of the document.
    """
    # Each word has at least one character.
    if how.words == 0 or len(document.text) <= how.words:
        yield document
        return
    starts = [match.start() for match in _WORD.finditer(document.text)]
    if len(starts) <= how.words:
        yield document
        return
    starts.append(len(document.text))
    last = len(starts) - 1
    step = how.words - how.overlap
    for number, first in enumerate(range(0, last - how.overlap, step)):
        end = starts[min(first + how.words, last)]
        text = document.text[starts[first] : end].rstrip()
        yield replace(document, id=f"{document.id}#{number}", text=text)


def has_more_words(text: str, most: int) -> bool:
    """True if a text has more than `most` words, as `Chunking` counts them."""
    if len(text) <= most:
        return False
    if text.isascii():
        return len(text.split()) > most
    return next(islice(_WORD.finditer(text), most, None), None) is not None


def document_id(passage_id: str) -> str:
    """The id of the document that a passage was cut from: `doc` for `doc#3`."""
    return _CHUNK_ID.sub("", passage_id)


def found_of(gold: set[str], passage_ids: set[str]) -> set[str]:
    """The gold ids that are among `passage_ids`: as they are, or as a document by one of its
    chunks.
    """
    found = gold & passage_ids
    if len(found) < len(gold):
        found = found | (gold & {document_id(identifier) for identifier in passage_ids})
    return found
