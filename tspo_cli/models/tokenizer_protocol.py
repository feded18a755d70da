"""What rollouts use of a tokenizer, so that they need not import transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """A fast tokenizer of transformers, or `WordTokenizer`."""

    chat_template: Any
    """A Jinja template. Empty or None: the tokenizer has none."""

    def __call__(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool
    ) -> Mapping[str, Any]:
        """`{"input_ids": [...]}`. With `split_special_tokens`, text that spells a special token
        becomes ordinary tokens.
        """
        ...

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> Any:
        """The text of these ids, a string."""
        ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tools: list[Any] | None,
        add_generation_prompt: bool,
        tokenize: bool,
    ) -> Any:
        """The conversation in the model's chat format, a string if `tokenize` is false."""
        ...


def encode(tokenizer: Tokenizer, text: str, *, special_tokens: bool = True) -> list[int]:
    """Token ids of `text`, none added. `special_tokens` false: no id is a special token, whatever
    `text` spells.
    """
    if not text:
        return []
    return list(
        tokenizer(text, add_special_tokens=False, split_special_tokens=not special_tokens)[
            "input_ids"
        ]
    )


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of `ids`, special tokens included, spaces as they are."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
