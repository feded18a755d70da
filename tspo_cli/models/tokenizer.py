"""A tiny tokenizer that spells any text: whole words and syllables of a world, bytes for the rest."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
TAGS = ("<think>", "</think>", "<search>", "</search>", "<information>", "</information>", "<answer>", "</answer>")
SPECIALS = (PAD, EOS, *TAGS)

# What the search protocol puts around questions and passages. The other pieces are spelled with a leading space.
PROTOCOL = ("Question", "Title", ":", "(", ")", ",", ".", "?", "\n", "\n\n", " Doc", "Doc", " ")
DIGITS = tuple(f" {digit}" for digit in range(10))

CONTINUATION = "\u2581"
# WordPiece tries every prefix of a piece: longer runs without spaces are cut, so that encoding time stays linear.
LONGEST_PIECE = 48


def tiny_tokenizer(words: Iterable[str], syllables: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer for texts of `words` and of names made of `syllables`.

    Words are one token after a space. Names are written with a capital: " Bako" is the tokens " Ba" and "ko". Anything
    else is spelled in bytes, so that decoding gives back every text. Ids: padding 0, end of sequence 1, the tags of the
    search protocol 2 to 9.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*PROTOCOL, *DIGITS, *(f" {word}" for word in words)]
    initial = [_bytes(piece) for piece in [*pieces, *(f" {syllable.capitalize()}" for syllable in syllables)]]
    later = [CONTINUATION + _bytes(syllable) for syllable in syllables]
    spelling = [*alphabet, *(CONTINUATION + char for char in alphabet)]
    tokens = list(dict.fromkeys([*SPECIALS, *initial, *later, *spelling]))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(
        models.WordPiece(
            vocabulary, unk_token=PAD, continuing_subword_prefix=CONTINUATION, max_input_chars_per_word=LONGEST_PIECE
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.FixedLength(LONGEST_PIECE)]
    )
    backend.decoder = decoders.Sequence([decoders.Replace(CONTINUATION, ""), decoders.ByteLevel(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def _bytes(text: str) -> str:
    """The text in the byte-level alphabet, where a space is Ġ and a newline Ċ."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(piece for piece, _ in level.pre_tokenize_str(text))
