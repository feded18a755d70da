"""When a request ends: which tokens end it at once, and which may complete a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tspo_cli.models.tokenizer_protocol import decode
from tspo_cli.rollout.engines.engine_protocol import Sampling
from tspo_cli.rollout.thoughts import hide_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


# What a sampled token does to its request.
CONTINUE = 0
STOP_STRING = 1  # its text contains a stop string
EOS_TOKEN = 2  # it is an end-of-sequence token
MAY_STOP = 3  # it may complete a stop string that earlier tokens began


_Strings = tuple[tuple[str, ...], tuple[str, ...], bool]
"""Those that always count, those that count outside thoughts, and whether the prompt opens one."""


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
        self.rules: list[_Strings] = []

    def rule(self, sampling: Sampling) -> int:
        """The row of `kinds` [rules, vocabulary] for its stop strings. The first use adds it."""
        strings = (sampling.stop, sampling.stop_outside, sampling.opened)
        if strings not in self.rules:
            self.rules.append(strings)
            self.kinds = np.vstack([self.kinds, self._classify(*strings[:2])])
        return self.rules.index(strings)

    def ends(self, rule: int, ids: Sequence[int]) -> bool:
        """True if the text of the sampled `ids` contains a stop string near its end, or one that
        counts outside thoughts there.
        """
        stop, outside, opened = self.rules[rule]
        # A character is at most four tokens.
        tail = decode(self.tokenizer, list(ids[-4 * max(map(len, (*stop, *outside))) :]))
        if any(string in tail for string in stop):
            return True
        if not any(string in tail for string in outside):
            return False
        said = hide_thoughts(decode(self.tokenizer, list(ids)), opened=opened)
        return any(string in said for string in outside)

    def _classify(self, stop: tuple[str, ...], outside: tuple[str, ...]) -> npt.NDArray[np.int8]:
        kinds = np.full(self.vocabulary, CONTINUE, np.int8)
        for token, text in enumerate(self._texts if (*stop, *outside) else ()):
            if any(string in text for string in stop):
                kinds[token] = STOP_STRING
            elif any(_may_end(text, string) for string in (*stop, *outside)):
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
