"""Whether a tokenizer, of a model or an encoder, knows the words of its own vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SAMPLE = 64
"""Words of a vocabulary that are tried."""


def check_words(path: str | Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a tokenizer that makes nothing, or the same, of most words of its own vocabulary, as
    one whose normalizer deletes or replaces all characters does.

    Raises:
        InvalidInputError: it is one; `path` names the model.
    """
    ids = sorted(tokenizer.get_vocab().values() - tokenizer.added_tokens_decoder.keys())
    words = [tokenizer.decode([word]) for word in ids[:: max(1, len(ids) // _SAMPLE)]]
    found = {tuple(tokenizer.encode(word, add_special_tokens=False)) for word in words} - {()}
    # Single bytes, half of which are no character, are all the words of some tokenizers.
    if len(found) < min(len(ids), max(2, len(words) // 4)):
        raise InvalidInputError(
            f"{path}: the tokenizer makes only {counted(len(found), 'different text')} of "
            f"{counted(len(words), 'word')} of its own vocabulary (see the normalizer and the "
            "pre_tokenizer in its tokenizer.json); copy the files of the tokenizer from the "
            "original model again"
        )
