"""The prompt of an experiment by value: a template file is read when the experiment is loaded.

A run, its exported model and the digest of an evaluation therefore hold the text itself. Where the
file lay, and what becomes of it later, does not matter to them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.errors import InvalidInputError
from tspo_cli.plain_files import is_plain, read_plain_text

if TYPE_CHECKING:
    from tspo_cli.config.schema import Config

STYLE_NAMES = ("search_r1", "short")
QUESTION = "{question}"
DIGITS = 8


def with_prompt_text(config: Config) -> Config:
    """`config` with the text of a template file in place of its path.

    Raises:
        InvalidInputError: the file is no UTF-8 text with `{question}` in it.
    """
    text = prompt_value(config.rollout.prompt)
    if text == config.rollout.prompt:
        return config
    rollout = config.rollout.model_copy(update={"prompt": text})
    return config.model_copy(update={"rollout": rollout})


def prompt_value(prompt: str) -> str:
    """The name of a style, the text of a template, or `prompt` itself if it is the path of no file.

    Raises:
        InvalidInputError: the file is no UTF-8 text with `{question}` in it.
    """
    if prompt in STYLE_NAMES or QUESTION in prompt:
        return prompt
    path = Path(prompt)
    if not prompt or not is_plain(path):
        return prompt
    template = read_plain_text(path)
    if QUESTION not in template:
        raise InvalidInputError(
            f"{path}: expected a template with {{question}} in it; add it where the question "
            "belongs"
        )
    return template


def prompt_name(prompt: object) -> str:
    """A prompt in a few words: a style or path as it is, a template by its beginning and its
    digest.
    """
    text = str(prompt)
    if QUESTION not in text:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
    beginning = " ".join(text.split())
    return f"template {digest} ({beginning if len(beginning) <= 30 else beginning[:29] + '…'})"
