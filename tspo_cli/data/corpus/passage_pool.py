"""Passages that are each kept once, with an id made of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO

from tspo_cli.data.corpus.paragraph_sets import Paragraph
from tspo_cli.text.strict_json import json_text

_DIGITS = 16
"""Hexadecimal digits of an id: equal ones are expected once in 1e7 corpora of a million."""


def passage_id(paragraph: Paragraph) -> str:
    """The id of a passage, the same in every corpus: 16 digits of the SHA-256 of its content."""
    content = f"{paragraph.title}\n{paragraph.text}".encode()
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


class PassagePool:
    """Distinct passages. Their texts lie in a file; memory holds their ids alone, about 200 bytes
    each.
    """

    def __init__(self, spool: IO[bytes]) -> None:
        """`spool`: an empty file, open for writing."""
        self.given = 0
        """Paragraphs that were added, repeated ones too."""
        self.title_only = 0
        """Passages without a text."""
        self._spool = spool
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, paragraph: Paragraph) -> str:
        """Keep a paragraph if it is new, and return its id."""
        self.given += 1
        identifier = passage_id(paragraph)
        if identifier not in self._places:
            self._places[identifier] = self._spool.tell()
            self.title_only += not paragraph.text
            record = {"id": identifier, "title": paragraph.title, "text": paragraph.text}
            self._spool.write(json_text(record).encode() + b"\n")
        return identifier

    def lines(self, spool: IO[bytes]) -> Iterator[bytes]:
        """The passages as lines of JSON, sorted by id: their order does not depend on that of
        `add`. `spool`: the file that was written, open for reading.
        """
        for _, place in sorted(self._places.items()):
            spool.seek(place)
            yield spool.readline()
