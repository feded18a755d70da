"""Chat templates: conversations as text, and the token with which a template ends a turn."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.tokenizer_protocol import Tokenizer, added_ids, decode, encode
from tspo_cli.work_limits import at_most, in_copy, memory_at_most

TURN_END = "turn_end"
"""In rollout.stop_tokens: the token with which the chat template ends a turn."""
_CONTENT = "\ue000"
_LONGEST_SECONDS = 5.0
"""For one conversation. A template takes milliseconds."""
_MOST_MEMORY = 256 * 2**20
"""Bytes for a conversation of a few words. A template takes kilobytes."""

_LONGEST_TEXT = 2**20
"""Characters for a conversation of a few words. A template takes thousands."""


class BoundlessTemplateError(InvalidInputError):
    """A chat template that needs too much time or memory."""


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
        BoundlessTemplateError: it needs more than five seconds (in the main thread) or more memory
            than there is.
    """
    try:
        with at_most(_LONGEST_SECONDS):
            text = tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=open_turn,
                **arguments,
            )
        text.encode()  # half of a surrogate pair is no text
        return text
    except (TimeoutError, MemoryError) as error:
        what = str(error) if isinstance(error, TimeoutError) else "more memory than there is"
        raise BoundlessTemplateError(
            f"the model's chat template needs {what} for one conversation; mend the template, or "
            "set rollout.chat_template=never"
        ) from error
    except Exception as error:  # a template is foreign code: whatever it raises is its refusal
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


def try_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    tools: Sequence[Any] | None = None,
    *,
    open_turn: bool = True,
) -> str:
    """`render_chat` for a template that nobody tried yet, with a conversation of a few words, in a
    copy of this process: its memory is limited, too, and so is what Python cannot interrupt.

    Raises:
        InvalidInputError: the template refuses the messages.
        BoundlessTemplateError: it needs more than five seconds or 256 MiB, or writes more than a
            million characters.
    """

    def attempt() -> str:
        try:
            with memory_at_most(_MOST_MEMORY):
                text = render_chat(tokenizer, messages, arguments, tools, open_turn=open_turn)
        except InvalidInputError as error:
            if isinstance(error.__cause__, MemoryError):
                return json.dumps({"boundless": _boundless(f"needs more than {most} MiB")})
            is_boundless = isinstance(error, BoundlessTemplateError)
            return json.dumps({"boundless" if is_boundless else "refused": str(error)})
        contents = sum(len(str(message.get("content"))) for message in messages)
        if len(text) > _LONGEST_TEXT + contents:
            return json.dumps({"boundless": _boundless(f"writes {len(text):,} characters")})
        return json.dumps({"text": text})

    most = _MOST_MEMORY >> 20
    try:
        said = json.loads(in_copy(attempt, _LONGEST_SECONDS))
    except TimeoutError as error:
        raise BoundlessTemplateError(_boundless(f"needs {error}")) from None
    except ChildProcessError:
        raise BoundlessTemplateError(_boundless("crashes Python")) from None
    if "boundless" in said:
        raise BoundlessTemplateError(said["boundless"])
    if "refused" in said:
        raise InvalidInputError(said["refused"])
    return str(said["text"])


def _boundless(verb: str) -> str:
    return (
        f"the model's chat template {verb} for a conversation of a few words; mend the template, "
        "or set rollout.chat_template=never"
    )


def check_template(tokenizer: Tokenizer, config: RolloutConfig) -> None:
    """Refuse a chat template that does not write the question or rollout.system as they are.

    Raises:
        InvalidInputError: the template refuses the messages, or leaves one out or changes it.
    """
    if not uses_template(tokenizer, config):
        return
    messages = [{"role": "user", "content": f"-{_CONTENT}Qq{_CONTENT}-"}]
    if config.system:
        messages.insert(0, {"role": "system", "content": config.system})
    text = try_chat(tokenizer, messages, config.template_kwargs)
    for message in messages:
        if message["content"].strip() not in text:
            system = message["role"] == "system"
            what = "system message (rollout.system)" if system else "message of the user"
            advice = "leave it empty" if system else "set rollout.chat_template=never"
            raise InvalidInputError(
                f"the model's chat template leaves out or changes the {what}: expected a template "
                f"that writes contents as they are, as strings; {advice}, or mend the template"
            )


def template_notes(tokenizer: Tokenizer, config: RolloutConfig, eos: Sequence[int]) -> list[str]:
    """What a person should know of the template before a run, one line each. `eos`: the ids at
    which the model stops.
    """
    notes = []
    # The style of the tiny world is plain text in any case.
    is_plain = not uses_template(tokenizer, config)
    if is_plain and config.chat_template == "auto" and config.prompt != "short":
        notes.append("the model has no chat template: prompts are plain text")
    return [*notes, *_stop_note(tokenizer, config, eos)]


def template_warnings(tokenizer: Tokenizer, config: RolloutConfig) -> Iterator[str]:
    """A sentence for each setting that only a chat template could use, and this one does not."""
    text = str(tokenizer.chat_template) if uses_template(tokenizer, config) else ""
    if config.system and not text:
        why = "is not used" if tokenizer.chat_template else "is missing"
        yield (
            f"rollout.system: without effect, the model's chat template {why}; put its words into "
            "a template file (rollout.prompt)"
        )
    unused = [name for name in config.template_kwargs if not re.search(rf"\b{name}\b", text)]
    if unused:
        what = "does not mention them" if text else "is not used"
        yield f"rollout.template_kwargs: {', '.join(unused)}: without effect, the template {what}"


def turn_end_id(tokenizer: Tokenizer, config: RolloutConfig) -> int | None:
    """The added token with which the chat template ends a turn of the model. None: no template is
    used, or it ends turns with ordinary text.
    """
    if not uses_template(tokenizer, config):
        return None
    said = [{"role": "user", "content": "-"}, {"role": "assistant", "content": _CONTENT}]
    # Some templates end a turn only with the beginning of the next one.
    for more in ([], [{"role": "user", "content": "-"}]):
        try:
            text = try_chat(tokenizer, [*said, *more], config.template_kwargs, open_turn=False)
        except BoundlessTemplateError:
            raise
        except InvalidInputError:  # a template without turns of the model
            return None
        rest = text.rpartition(_CONTENT)[2] if _CONTENT in text else ""
        for token_id in encode(tokenizer, rest):
            if token_id in added_ids(tokenizer):
                return token_id
            if decode(tokenizer, [token_id]).strip():
                return None
    return None


def stop_ids(tokenizer: Tokenizer, config: RolloutConfig) -> list[int]:
    """The ids of rollout.stop_tokens: tokens that end a turn beside those that the model names.

    Raises:
        InvalidInputError: a text that is not one token, or an id outside the vocabulary.
    """
    ids: set[int] = set()
    for token in config.stop_tokens:
        if token == TURN_END:
            end = turn_end_id(tokenizer, config)
            ids |= set() if end is None else {end}
        elif isinstance(token, int):
            size = len(tokenizer)  # type: ignore[arg-type]
            if not 0 <= token < size:
                raise InvalidInputError(
                    f"rollout.stop_tokens: {token} is no id of this tokenizer (0 to {size - 1})"
                )
            ids.add(token)
        else:
            found = encode(tokenizer, token)
            if len(found) != 1:
                raise InvalidInputError(
                    f"rollout.stop_tokens: {token!r} is {len(found)} tokens of this model, "
                    "expected one; name a single token or its id"
                )
            ids.add(found[0])
    return sorted(ids)


def _stop_note(tokenizer: Tokenizer, config: RolloutConfig, eos: Sequence[int]) -> list[str]:
    """One line if the chat template ends turns with a token that the model does not stop at, or if
    nothing but a tag ends them.
    """
    end = turn_end_id(tokenizer, config)
    if not eos and not stop_ids(tokenizer, config):
        return [
            "the model names no EOS: a turn without a tag goes on to rollout.max_new_tokens; name "
            "the token that ends its texts in rollout.stop_tokens"
        ]
    if end is None or end in eos:
        return []
    stops = end in stop_ids(tokenizer, config)
    then = "rollouts stop at it" if stops else f"add {TURN_END!r} to rollout.stop_tokens to stop"
    return [
        f"the chat template ends turns with {decode(tokenizer, [end])}, which is not an EOS of "
        f"this model; {then}"
    ]
