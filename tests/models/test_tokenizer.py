from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tspo_cli.config.schema import ModelConfig
from tspo_cli.data.world.generate import world_words
from tspo_cli.data.world.names import SYLLABLES
from tspo_cli.models.load_model import load_tokenizer
from tspo_cli.models.tiny import tiny_model
from tspo_cli.models.tokenizer import SPECIALS, TAGS, tiny_tokenizer

TOKENIZER = tiny_tokenizer(world_words(), SYLLABLES)
PIECES = [
    *SPECIALS,
    " Bako Skuni",
    "director",
    " ",
    "\n",
    "\u2581",
    "Ġ",
    "é",
    "漢",
    "🎉",
    "\x00",
    "<",
    ">",
    "a" * 100,
]


def encode(text: str, **options: bool) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False, **options)["input_ids"])


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


texts = st.one_of(
    st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4))).map("".join)
).map(lambda text: unicodedata.normalize("NFC", text))


@settings(max_examples=300, deadline=None)
@given(texts)
def test_decoding_gives_back_every_text(text: str) -> None:
    assert decode(encode(text)) == text


@settings(max_examples=300, deadline=None)
@given(texts)
def test_text_of_others_never_becomes_a_special_token(text: str) -> None:
    ids = encode(text, split_special_tokens=True)
    assert not set(ids) & set(TOKENIZER.all_special_ids)
    assert min(ids, default=len(SPECIALS)) >= len(SPECIALS)
    assert decode(ids) == text
    # The option holds for one call only.
    assert encode("<search>") == [SPECIALS.index("<search>")]


def test_ids_of_special_tokens() -> None:
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIALS)) == list(range(len(SPECIALS)))
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (0, 1)
    for tag in TAGS:
        assert len(encode(tag)) == 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (" director", 1),
        (" Bako Skuni", 4),
        ("\n\n", 1),
        ("\nDoc 1(Title: Bako Skuni) it was", 13),
        ("Question: who is", 4),
    ],
)
def test_texts_of_a_world_are_short(text: str, tokens: int) -> None:
    assert len(encode(text)) == tokens


def test_every_word_and_name_has_its_own_spelling() -> None:
    words = [f" {word}" for word in world_words() if word.isalpha()]
    names = [f" {(first + second).capitalize()}" for first in SYLLABLES for second in SYLLABLES]
    spellings = [
        tuple(ids) for ids in TOKENIZER(words + names, add_special_tokens=False)["input_ids"]
    ]
    assert {len(ids) for ids in spellings[: len(words)]} == {1}
    assert {len(ids) for ids in spellings[len(words) :]} == {2}
    assert len(set(spellings)) == len(spellings)


def test_long_runs_without_spaces() -> None:
    text = "漢" * 20_000
    assert decode(encode(text)) == text


def test_saved_and_loaded(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    text = "<think> find director of Bako Runi </think>\n\n漢 <pad>"
    for options in ({}, {"split_special_tokens": True}):
        ids = loaded(text, add_special_tokens=False, **options)["input_ids"]
        assert ids == encode(text, **options)
        assert (
            loaded.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            == text
        )
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)


def test_a_model_directory_gives_the_same_tokenizer_to_everybody(tmp_path: Path) -> None:
    """transformers picks the class by the model's type, whatever the tokenizer's files say."""
    TOKENIZER.save_pretrained(tmp_path)
    tiny_model(len(TOKENIZER), ModelConfig(), seed=0).save_pretrained(tmp_path)
    text = (
        "Question: who is the director of Bako Skuni?\n<think> find </think> <answer> 漢\u0301é "
        "</answer>\n\n"
    )
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded(text)["input_ids"] == encode(text)
        assert loaded(text, split_special_tokens=True)["input_ids"] == encode(
            text, split_special_tokens=True
        )
        assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)
