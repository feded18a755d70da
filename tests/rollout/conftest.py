"""A tiny random policy and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tspo_cli.models.tokenizer import tiny_tokenizer

WORDS = ("which", "river", "town", "is", "in", "it", "invalid", "near", "born", "who")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words, syllables, bytes, and the tags as special tokens."""
    return tiny_tokenizer(WORDS, ("ba", "ko", "ri", "mu"))


@pytest.fixture(scope="session")
def random_policy(tokenizer: PreTrainedTokenizerFast) -> Callable[[int], Qwen2ForCausalLM]:
    """Makes a random policy from a seed."""

    def make(seed: int) -> Qwen2ForCausalLM:
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
        return Qwen2ForCausalLM(config).eval()

    return make


@pytest.fixture
def model(random_policy: Callable[[int], Qwen2ForCausalLM]) -> Qwen2ForCausalLM:
    """Two layers with grouped queries, weights large enough for distinct probabilities."""
    return random_policy(0)
