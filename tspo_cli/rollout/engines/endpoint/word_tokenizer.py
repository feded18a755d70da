"""A tokenizer for models whose real tokenizer only their server has: pieces of words, about as long
as tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Pieces of words of at most six characters with the space before them; runs of at most three other
# characters; single white space.
_PIECE = re.compile(r" ?\w{1,6}| ?[^\w\s]{1,3}|\s", re.DOTALL)


class WordTokenizer:
    """Splits text into pieces and joins them again without loss.

    English has about as many pieces as tokens of a usual vocabulary, so that token limits and
    counts keep their meaning. A piece gets its id when it first appears. There are no special
    tokens and no chat template: the server has them.
    """

    chat_template: str | None = None

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ids: dict[str, int] = {}

    def __call__(self, text: str, **options: bool) -> Mapping[str, list[int]]:
        """`{"input_ids": [...]}`. The options of other tokenizers have no effect."""
        return {"input_ids": [self._id(piece) for piece in _PIECE.findall(text)]}

    def decode(self, token_ids: Sequence[int], **options: bool) -> str:
        """The text of ids that this tokenizer returned."""
        return "".join(self._pieces[token_id] for token_id in token_ids)

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        """Raises ValueError: the tokenizer has no chat template."""
        raise ValueError("this tokenizer has no chat template; check `chat_template` first")

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._pieces.append(piece)
            self._ids[piece] = len(self._pieces) - 1
        return self._ids[piece]
