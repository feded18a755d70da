"""Whether a model has a row for every id of its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def check_vocabulary(path: str | Path, tokenizer: PreTrainedTokenizerFast, rows: int) -> None:
    """Refuse a tokenizer with an id that an embedding of `rows` rows does not have. More rows than
    ids are common and harmless.

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
