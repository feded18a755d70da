"""What the model was shown of its passages is found again in the recorded observation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.shown import is_cut, shown_lengths

LONG = "Ko lies by the Rimu. " * 30


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(("river", "town", "lies", "by", "the"), ("ba", "ko", "ri", "mu"))


@pytest.mark.parametrize(
    ("texts", "feedback", "lengths"),
    [
        (["a town"], "\n\n<information>Doc 1(Title: Ko) a town</information>\n\n", [6]),
        (["a town", "a river"], "Doc 1(Title: Ko) a town\nDoc 2(Title: Ri) a r", [6, 3]),
        (["a town", "a river"], "Doc 1(Title: Ko) a to", [4, 0]),
        (["a town"], "Doc 1(Title: K", [0]),
        (["same", "same"], "Doc 1(Title: Ko) same\nDoc 2(Title: Ri) same", [4, 4]),
        (["same", "same"], "Doc 1(Title: Ko) same\nDoc 2(Title: Ri", [4, 0]),
        (["a town \n"], "Doc 1(Title: Ko) a town", [8]),
        (["Zürich"], "Doc 1(Title: Ko) Z\ufffd", [1]),
        ([""], "Doc 1(Title: Ko)", [0]),
    ],
)
def test_lengths(texts: list[str], feedback: str, lengths: list[int]) -> None:
    assert shown_lengths(texts, feedback) == lengths
    assert is_cut(texts, feedback) == (lengths != [len(text) for text in texts])


def test_an_unrecorded_observation_is_unknown() -> None:
    assert shown_lengths(["a town"], "") is None
    assert not is_cut(["a town"], "")


WORDS = st.lists(st.sampled_from(["Ko", "lies", "by", "Zürich,", "1–2", "東京"]), max_size=12)


@given(texts=st.lists(WORDS.map(" ".join), min_size=1, max_size=3), limit=st.integers(10, 120))
def test_the_protocols_own_observations(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], limit: int
) -> None:
    protocol = SearchProtocol.from_config(
        tokenizer, RolloutConfig(prompt="short", max_observation_tokens=limit)
    )
    hits = [Hit(str(number), f'"T{number}"\n{text}', 1.0) for number, text in enumerate(texts)]
    feedback, _ = protocol.observation(hits)
    whole, _ = SearchProtocol.from_config(
        tokenizer, RolloutConfig(prompt="short", max_observation_tokens=9999)
    ).observation(hits)
    lengths = shown_lengths(texts, feedback)
    assert lengths is not None
    if feedback == whole:
        assert lengths == list(map(len, texts))
    elif any(texts):
        assert all(text[:length] in feedback for text, length in zip(texts, lengths, strict=True))
        first_cut = next((n for n, text in enumerate(texts) if lengths[n] < len(text)), None)
        if first_cut is not None:
            assert not any(lengths[first_cut + 1 :])
