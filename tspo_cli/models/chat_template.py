"""Chat templates: conversations as text, and the token with which a template ends a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.tokenizer_protocol import Tokenizer


def uses_template(tokenizer: Tokenizer, config: RolloutConfig) -> bool:
    """Whether rollouts are rendered by the tokenizer's chat template."""
    return config.chat_template == "auto" and bool(tokenizer.chat_template)


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    tools: Sequence[Any] | None = None,
    *,
    open_turn: bool = True,
) -> str:
    """The conversation as the chat template writes it, with further `arguments` of the template.
    `open_turn`: the beginning of the model's turn follows.

    Raises:
        InvalidInputError: the template refuses the messages; its words and what to do.
    """
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=list(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=open_turn,
            **arguments,
        )
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        has_system = any(message["role"] == "system" for message in messages)
        hint = (
            "it is given a system message: leave rollout.system empty, and put its words into a "
            "template file (rollout.prompt)"
            if has_system
            else "give what it needs in rollout.template_kwargs, or set rollout.chat_template=never"
        )
        raise InvalidInputError(
            f"the model's chat template refuses the conversation: {reason}; {hint}"
        ) from error


def template_notes(tokenizer: Tokenizer, config: RolloutConfig) -> list[str]:
    """What a person should know of the template before a run, one line each."""
    text = str(tokenizer.chat_template) if uses_template(tokenizer, config) else ""
    unused = [name for name in config.template_kwargs if name not in text]
    if not unused:
        return []
    what = "does not mention them" if text else "is not used"
    return [f"rollout.template_kwargs: {', '.join(unused)}: without effect, the template {what}"]
