"""The tool-calling agent: search is a function in the chat template of the model.

Calls are read in every form of `call_forms`. Behind a chat API the function is a tool of that API.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.methods.call_forms import find_calls, spoken
from tspo_cli.evaluation.methods.method import Method, without_end
from tspo_cli.models.chat_template import render_chat
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import (
    Action,
    RolloutState,
    SearchProtocol,
    parse_action,
)

TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Find passages of an encyclopedia.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to look for."}},
            "required": ["query"],
        },
    },
}
REQUEST = (
    "Answer the question. Call the search function for every fact that you are not sure of. When "
    "you are done, write "
    "only the final answer, as short as possible, inside <answer> and </answer>.\nQuestion: "
    "{question}"
)
NOTHING = "Nothing was found."
CORRECTION = (
    "That was neither a call of the search function nor an answer inside <answer> and "
    "</answer>. Try again."
)
_MARK = "\ue000"


class ServedToolCallProtocol(SearchProtocol):
    """For a chat API, where the server keeps the messages."""

    stop: ClassVar[tuple[str, ...]] = ("</answer>",)

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """The first call of the search function, or an answer."""
        return parse_call(text, finish_reason, state)

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The request, then the conversation so far."""
        return ids or self.fill(REQUEST, {"question": self.question_text(state.question.question)})

    def observation(self, hits: Sequence[Hit]) -> tuple[str, list[int]]:
        """The passages, cut to the limit."""
        text = self.cut(self.passages(hits) or NOTHING, self.max_observation_tokens)
        return text, self.action_ids(text)

    def correction(self, ids: Sequence[int] = ()) -> tuple[str, list[int]]:
        """The reply to a message that is neither a call nor an answer."""
        return CORRECTION, self.action_ids(CORRECTION)


class ToolCallProtocol(SearchProtocol):
    """For a model with a chat template: every prompt is rendered from the messages."""

    stop: ClassVar[tuple[str, ...]] = ("</tool_call>", "</answer>")

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """The first call of the search function, or an answer."""
        return parse_call(text, finish_reason, state)

    def correction(self, ids: Sequence[int] = ()) -> tuple[str, list[int]]:
        """The reply to a message that is neither a call nor an answer."""
        return CORRECTION, self.action_ids(CORRECTION)

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The conversation so far, rendered by the chat template. The model's turns keep their
        sampled ids.
        """
        template = getattr(self.tokenizer, "chat_template", None)
        if not self.use_chat_template or "tools" not in str(template):
            raise InvalidInputError(
                "--method tool_call: this model has no chat template with tools; use another "
                "method, such as search_r1"
            )
        values: dict[str, str | Sequence[int]] = {
            "question": self.question_text(state.question.question)
        }
        messages: list[dict[str, Any]] = (
            [{"role": "system", "content": self.system}] if self.system else []
        )
        messages.append(
            {"role": "user", "content": REQUEST.replace("{question}", f"{_MARK}question{_MARK}")}
        )
        for number, turn in enumerate(state.turns):
            values[f"turn{number}"] = without_end(turn)
            messages.append({"role": "assistant", "content": f"{_MARK}turn{number}{_MARK}"})
            if turn.kind == "search":
                passages = self.passages(turn.hits) or NOTHING
                values[f"passages{number}"] = self.cut(passages, self.max_observation_tokens)
                messages.append(
                    {"role": "tool", "name": "search", "content": f"{_MARK}passages{number}{_MARK}"}
                )
            else:
                messages.append({"role": "user", "content": CORRECTION})
        rendered = render_chat(
            self.tokenizer, messages, self.template_kwargs, [TOOL] if state.may_search else None
        )
        return self.fill_marked(rendered, values)


def parse_call(text: str, finish_reason: str, state: RolloutState) -> Action:
    """A call of the search function or an answer, whichever comes first; of several calls the
    first. A malformed call and a call of another function are invalid.
    """
    text = spoken(text)
    calls = find_calls(text)
    answer = text.find("<answer>")
    if not calls or 0 <= answer < calls[0].start:
        return parse_action(text, finish_reason=finish_reason, may_search=False)
    arguments = calls[0].arguments or {}
    query = arguments.get("query") if calls[0].name == "search" else None
    query = query.strip() if isinstance(query, str) else ""
    return Action("search", query) if state.may_search and query else Action("invalid")


TOOL_CALL = Method(
    "tool_call",
    ToolCallProtocol,
    searches=True,
    chat_protocol=ServedToolCallProtocol,
    tools=(TOOL,),
)
