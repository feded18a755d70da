"""`rollout.stop_tokens` behind a server: as its fields, as stop strings, or as a note."""

from __future__ import annotations

from typing import Any, NamedTuple

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.models.chat_template import TURN_END, stop_ids, turn_end_id
from tspo_cli.models.tokenizer_protocol import Tokenizer, decode

STOP_IDS = "stop_token_ids"
"""The field of vLLM's server, and of some others, for ids that end a turn."""


class TurnEnds(NamedTuple):
    """What requests say of `rollout.stop_tokens`: more fields, more stop strings, and notes on what
    does not apply, one line each.
    """

    fields: dict[str, list[int]]
    texts: tuple[str, ...]
    notes: tuple[str, ...]


def turn_ends(
    config: RolloutConfig,
    tokenizer: Tokenizer | None,
    *,
    takes_ids: bool,
    extra: dict[str, Any],
) -> TurnEnds:
    """How a server is told of `rollout.stop_tokens`.

    `tokenizer` is that of the model, if it is known. `takes_ids`: the server is vLLM, which has a
    field for ids. Other servers get the texts as stop strings; ids only if `extra` has that field.

    Raises:
        InvalidInputError: see `stop_ids`.
    """
    texts = tuple(
        token for token in config.stop_tokens if isinstance(token, str) and token != TURN_END
    )
    if takes_ids and tokenizer is not None:
        ids = stop_ids(tokenizer, config)
        return TurnEnds({STOP_IDS: ids} if ids else {}, (), ())
    ids = [token for token in config.stop_tokens if isinstance(token, int)]
    if takes_ids:
        return TurnEnds({STOP_IDS: ids} if ids else {}, texts, ())
    if STOP_IDS in extra:
        return TurnEnds({}, texts, ())
    lost = [str(token) for token in ids]
    if tokenizer is not None and TURN_END in config.stop_tokens:
        end = turn_end_id(tokenizer, config)
        own = getattr(tokenizer, "eos_token_id", None)
        lost += [decode(tokenizer, [end])] if end is not None and end != own else []
    if not lost:
        return TurnEnds({}, texts, ())
    note = (
        f"rollout.stop_tokens: {', '.join(lost)} cannot be sent, because the server is not vLLM; "
        "turns end where the server ends them. If it takes ids, name them with "
        f"--set 'endpoint.extra={{\"{STOP_IDS}\": [...]}}'"
    )
    return TurnEnds({}, texts, (note,))
