"""When a request ends: which tokens end it at once, and which may complete a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tspo_cli.models.tokenizer_protocol import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


# What a sampled token does to its request.
CONTINUE = 0
STOP_STRING = 1  # its text contains a stop string
EOS_TOKEN = 2  # it is an end-of-sequence token
MAY_STOP = 3  # it may complete a stop string that earlier tokens began


class StopRules:
    """Classifies every token of the vocabulary for the stop strings of a request. Text is decoded
    only after a token that may complete a stop string, and only a short tail of it.

    Args:
        tokenizer: decodes token ids.
        vocabulary: size of the model's vocabulary.
        eos_ids: end-of-sequence tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, vocabulary: int, eos_ids: Sequence[int]
    ) -> None:
        self.tokenizer, self.vocabulary, self.eos_ids = tokenizer, vocabulary, list(eos_ids)
        self.kinds: npt.NDArray[np.int8] = np.zeros((0, vocabulary), np.int8)
        self.rules: list[tuple[str, ...]] = []

    def rule(self, stop: tuple[str, ...]) -> int:
        """The row of `kinds` [rules, vocabulary] for these stop strings. The first use adds it."""
        if stop not in self.rules:
            self.rules.append(stop)
            self.kinds = np.vstack([self.kinds, self._classify(stop)])
        return self.rules.index(stop)

    def ends(self, rule: int, ids: Sequence[int]) -> bool:
        """True if the text of the sampled `ids` contains a stop string near its end."""
        stop = self.rules[rule]
        tail = list(ids[-4 * max(map(len, stop)) :])  # a character is at most four tokens
        text = decode(self.tokenizer, tail)
        return any(string in text for string in stop)

    def _classify(self, stop: tuple[str, ...]) -> npt.NDArray[np.int8]:
        kinds = np.full(self.vocabulary, CONTINUE, np.int8)
        for token, text in enumerate(self._texts if stop else ()):
            if any(string in text for string in stop):
                kinds[token] = STOP_STRING
            elif any(_may_end(text, string) for string in stop):
                kinds[token] = MAY_STOP
        kinds[self.eos_ids] = EOS_TOKEN
        return kinds

    @cached_property
    def _texts(self) -> list[str]:
        return [
            decode(self.tokenizer, [token])
            for token in range(min(len(self.tokenizer), self.vocabulary))
        ]


def _may_end(text: str, stop: str) -> bool:
    # A token decoded alone may lose a leading space or show part of a character as U+FFFD.
    last = stop[-1]
    return last in text or last.isspace() or (not last.isascii() and "\ufffd" in text)
