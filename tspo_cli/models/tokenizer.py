"""A tiny tokenizer for any text: whole words and syllables of a world, bytes for everything else.

It is a byte-level BPE with Qwen2's splitting rules: transformers and vLLM read every tokenizer of a
Qwen2 model as one, whatever its files contain.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

PAD, EOS = "<pad>", "<eos>"
TAGS = (
    "<think>",
    "</think>",
    "<search>",
    "</search>",
    "<information>",
    "</information>",
    "<answer>",
    "</answer>",
)
SPECIALS = (PAD, EOS, *TAGS)

# Texts that the search protocol adds to questions and passages; each becomes one token.
PROTOCOL = ("Question", "(Title", "Doc", "\n\n")


def tiny_tokenizer(words: Iterable[str], syllables: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer for texts of `words` and of names made of `syllables` (consonants, then one
    vowel).

    A word after a space is one token. Names are written with a capital: " Bako" is the tokens " Ba"
    and "ko". Anything else becomes bytes, so that decoding restores every text (after Unicode's
    NFC). Ids: padding 0, end of sequence 1, the tags of the search protocol 2 to 9.
    """
    merges = _Merges()
    # Earlier rules are applied first: the consonants of a syllable, then its vowel, then the space
    # before a name.
    spelled = [*syllables, *(syllable.capitalize() for syllable in syllables)]
    for syllable in spelled:
        merges.join(list(syllable[:-1]))
    for syllable in spelled:
        merges.add(syllable[:-1], syllable[-1])
    for syllable in spelled[len(syllables) :]:
        merges.add(_bytes(" "), syllable)
    # All rules of a word begin with its first piece, so they do not affect another word or the end
    # of a name.
    letters = sorted(word for word in set(words) if word.isalpha())
    for text in [*PROTOCOL, *(f" {word}" for word in letters)]:
        merges.join(merges.apply(_bytes(text)))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = list(dict.fromkeys([*SPECIALS, *alphabet, *("".join(pair) for pair in merges.ranks)]))
    rules: list[Any] = list(merges.ranks)
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=rules,
        unk_token=PAD,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(TAGS)})
    return tokenizer


class _Merges:
    """Merge rules of a BPE; `ranks` maps a pair to its rank, from 0."""

    def __init__(self) -> None:
        self.ranks: dict[tuple[str, str], int] = {}

    def add(self, left: str, right: str) -> None:
        self.ranks.setdefault((left, right), len(self.ranks))

    def join(self, pieces: Sequence[str]) -> None:
        """Add the rules that join the pieces from left to right."""
        whole = pieces[0]
        for piece in pieces[1:]:
            self.add(whole, piece)
            whole += piece

    def apply(self, text: str) -> list[str]:
        """The pieces that the rules so far make of `text`."""
        pieces = list(text)
        while True:
            pairs = [
                (self.ranks[pair], index)
                for index, pair in enumerate(itertools.pairwise(pieces))
                if pair in self.ranks
            ]
            if not pairs:
                return pieces
            index = min(pairs)[1]
            pieces[index : index + 2] = [pieces[index] + pieces[index + 1]]


def _bytes(text: str) -> str:
    """The text in the byte-level alphabet, where a space is Ġ and a newline Ċ."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(piece for piece, _ in level.pre_tokenize_str(text))
