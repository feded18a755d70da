"""What rollouts use of a tokenizer, so that they need not import transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

_AT_ONCE = 4096


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
        **arguments: Any,
    ) -> Any:
        """The conversation in the model's chat format, a string if `tokenize` is false."""
        ...


def encode(tokenizer: Tokenizer, text: str, *, special_tokens: bool = True) -> list[int]:
    """Token ids of `text`, none added. `special_tokens` false: no id is a token that was added to
    the vocabulary (special, or a mark such as `</think>` or `<tool_call>`), whatever `text` spells.
    """
    if not text:
        return []
    ids = list(
        tokenizer(text, add_special_tokens=False, split_special_tokens=not special_tokens)[
            "input_ids"
        ]
    )
    # A tokenizer splits special tokens when asked, but never other added tokens.
    if special_tokens or added_ids(tokenizer).isdisjoint(ids):
        return ids
    return _encode_without_added(tokenizer, text)


def start_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that the tokenizer itself puts before a text, such as the beginning of sequence.
    Usually one or none.
    """
    probe = "a"
    plain = encode(tokenizer, probe)
    whole = list(tokenizer(probe, add_special_tokens=True, split_special_tokens=False)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    return []


def token_counts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Number of tokens of each text, as `encode` without special tokens makes them. Fast tokenizers
    take the texts in batches.
    """
    if not getattr(tokenizer, "is_fast", False):
        return [len(encode(tokenizer, text, special_tokens=False)) for text in texts]
    batched: Any = tokenizer
    added = added_ids(tokenizer)
    counts: list[int] = []
    for start in range(0, len(texts), _AT_ONCE):
        portion = list(texts[start : start + _AT_ONCE])
        rows = batched(
            portion,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
        )["input_ids"]
        counts += [
            len(ids if added.isdisjoint(ids) else encode(tokenizer, text, special_tokens=False))
            for text, ids in zip(portion, rows, strict=True)
        ]
    return counts


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of `ids`, special tokens included, spaces as they are."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


_ADDED: WeakKeyDictionary[Any, tuple[int, frozenset[int]]] = WeakKeyDictionary()


def added_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that no text of others may become: the added tokens, except white space and the token for
    what is unknown.
    """
    if not hasattr(tokenizer, "added_tokens_decoder"):
        return frozenset()
    size = len(tokenizer)
    if _ADDED.get(tokenizer, (-1,))[0] != size:
        added = tokenizer.added_tokens_decoder.items()
        ids = {index for index, token in added if token.content.strip()}
        _ADDED[tokenizer] = size, frozenset(ids - {tokenizer.unk_token_id})
    return _ADDED[tokenizer][1]


def _encode_without_added(tokenizer: Any, text: str) -> list[int]:
    """The ids by the tokenizer's own steps, its search for added tokens left out."""
    backend, added = tokenizer.backend_tokenizer, added_ids(tokenizer)
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [text]
    if backend.pre_tokenizer is not None:
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    ids: list[int] = []
    for token in (token for piece in pieces for token in backend.model.tokenize(piece)):
        # A vocabulary may have the mark as a piece of its own; then it is spelt out.
        spelt = backend.model.tokenize if token.id in added else None
        ids += (
            [token.id]
            if spelt is None
            else [part.id for letter in token.value for part in spelt(letter)]
        )
    return ids
