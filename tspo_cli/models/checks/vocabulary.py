"""Whether a model has a row for every id of its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def check_vocabulary(
    path: str | Path, tokenizer: PreTrainedTokenizerFast, rows: int, ends: Sequence[int] = ()
) -> None:
    """Refuse a tokenizer with an id that an embedding of `rows` rows does not have, and such an id
    among `ends`, which end a sequence (-1 would be the last row). More rows than ids are common and
    harmless.

    Raises:
        InvalidInputError: an id is too large; `path` names the model.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    if largest >= rows:
        raise InvalidInputError(
            f"{path}: the tokenizer has {largest + 1:,} ids, but the model's embedding has "
            f"{counted(rows, 'row')} (the last token is {token!r}); use the model's own "
            "tokenizer, or resize the embedding and save the model"
        )
    added = max(tokenizer.encode(""), default=-1)
    if added >= rows:
        raise InvalidInputError(
            f"{path}: the tokenizer adds the id {added} to every text (post_processor of its "
            f"tokenizer.json), but the model's embedding has {rows} rows; use the model's own "
            "tokenizer"
        )
    if beyond := [end for end in ends if not 0 <= end < rows]:
        raise InvalidInputError(
            f"{path}: the id {beyond[0]} ends a sequence (eos_token_id of config.json or "
            f"generation_config.json), but the model's embedding has {counted(rows, 'row')}; copy "
            "these files from the original model again"
        )
