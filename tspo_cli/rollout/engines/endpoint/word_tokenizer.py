"""A stand-in for the tokenizer of a model that only its server knows: pieces of words, about as
long as tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# A word with the space before it, in pieces of at most six letters; a run of other signs; white
# space.
_PIECE = re.compile(r" ?\w{1,6}| ?[^\w\s]{1,3}|\s", re.DOTALL)


class WordTokenizer:
    """Takes texts apart and puts them together again without loss. Limits and counts are in its
    pieces, of which English has about as many as a usual vocabulary of subwords; ids are given out
    as pieces appear.
    """

    chat_template = None

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ids: dict[str, int] = {}

    def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
        """`{"input_ids": [...]}`; the options of other tokenizers are of no consequence, nothing is
        special here.
        """
        return {"input_ids": [self._id(piece) for piece in _PIECE.findall(text)]}

    def decode(self, ids: Sequence[int], **options: bool) -> str:
        """The text of ids that this object gave out."""
        return "".join(self._pieces[one] for one in ids)

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._pieces.append(piece)
            self._ids[piece] = len(self._pieces) - 1
        return self._ids[piece]
