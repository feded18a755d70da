"""The tool-calling agent: search is a function in the chat template of the model.

Calls are read in every form of `call_forms`. Behind a chat API the function is a tool of that API.
A turn is one search: of several calls in a message the first is executed, as in verl by default,
and the model is told so. Thoughts are neither calls nor answers, with one exception: a marked call
ends a thought that has no end of its own, as in vLLM's parser of Qwen3, whose models forget it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.methods.call_forms import Call, find_calls, without_end_tokens
from tspo_cli.evaluation.methods.method import Method, without_end
from tspo_cli.models.chat_template import render_chat, try_chat
from tspo_cli.models.tokenizer_protocol import Tokenizer
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.engines.endpoint.chat_reply import ONLY_FIRST
from tspo_cli.rollout.protocol import (
    Action,
    RolloutState,
    SearchProtocol,
    parse_action,
)
from tspo_cli.rollout.thoughts import split_thoughts
from tspo_cli.rollout.trajectory import CallFacts, Turn

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


class _CallingProtocol(SearchProtocol):
    """Reads calls and answers, and shows the passages without tags."""

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """The first call of the search function, or an answer."""
        return parse_call(text, finish_reason, state, opened=self.opens_thought)

    def observation(self, hits: Sequence[Hit]) -> tuple[str, list[int]]:
        """The passages, cut to the limit."""
        text = self.cut(self.passages(hits) or NOTHING, self.max_observation_tokens)
        return text, self._encode_untrusted(text)

    def search_result(self, turn: Turn, hits: Sequence[Hit]) -> tuple[str, list[int]]:
        """The passages. If the turn has further calls, they end with a line about these."""
        text, ids = self.observation(hits)
        if turn.call is None or not turn.call.ignored:
            return text, ids
        return f"{text}\n\n{ONLY_FIRST}", [*ids, *self._encode(f"\n\n{ONLY_FIRST}")]

    def correction(self, ids: Sequence[int] = ()) -> tuple[str, list[int]]:
        """The reply to a message that is neither a call nor an answer."""
        return CORRECTION, self.action_ids(CORRECTION)


class ServedToolCallProtocol(_CallingProtocol):
    """For a chat API, where the server keeps the messages."""

    stop: ClassVar[tuple[str, ...]] = ()
    stop_outside: ClassVar[tuple[str, ...]] = ("</answer>",)

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The request, then the conversation so far."""
        return ids or self.fill(REQUEST, {"question": self.question_text(state.question.question)})


class ToolCallProtocol(_CallingProtocol):
    """For a model with a chat template: every prompt is rendered from the messages."""

    stop: ClassVar[tuple[str, ...]] = ()
    stop_outside: ClassVar[tuple[str, ...]] = ("</tool_call>", "</answer>")

    @classmethod
    def from_config(cls, tokenizer: Tokenizer, config: RolloutConfig) -> SearchProtocol:
        """The protocol, if the chat template renders a conversation with a call.

        Raises:
            InvalidInputError: it does not; what it leaves out or refuses, and what to do. Also as
                `SearchProtocol.from_config`.
        """
        protocol = super().from_config(tokenizer, config)
        lost = "tools, because there is none or it is not used (rollout.chat_template)"
        if protocol.use_chat_template:
            lost = lost_part(tokenizer, config.template_kwargs)
        if lost:
            raise InvalidInputError(
                f"--method tool_call: the model's chat template does not render {lost}; choose a "
                "model whose template renders tools, give the template what it needs "
                "(rollout.template_kwargs), or use another method, such as --method search_r1"
            )
        return protocol

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The conversation so far, rendered by the chat template. The model's turns keep their
        sampled ids.
        """
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
                values[f"result{number}"] = turn.feedback
                messages.append(
                    {"role": "tool", "name": "search", "content": f"{_MARK}result{number}{_MARK}"}
                )
            else:
                messages.append({"role": "user", "content": CORRECTION})
        rendered = render_chat(
            self.tokenizer, messages, self.template_kwargs, [TOOL] if state.may_search else None
        )
        return self.fill_marked(rendered, values)


def lost_part(tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> str:
    """What the chat template leaves out, or refuses, of a conversation with one call: the first
    part that is lost, in words. Empty if all of it is there.
    """
    call = '{"name": "search", "arguments": {"query": "violet lighthouse"}}'
    conversation = [
        ("tools", "user", "-", ("search", "Find passages of an encyclopedia.", "query")),
        ("a message of the model with a call", "assistant", call, (call,)),
        ("the result of a call (a message of the role tool)", "tool", "amber harbour", ()),
    ]
    messages: list[dict[str, Any]] = []
    expected: list[str] = []
    for part, role, content, words in conversation:
        messages.append({"role": role, "content": content})
        if role == "tool":
            messages[-1]["name"] = "search"
        expected += words or (content,)
        try:
            # As the method does: the last prompt has the result and no tools.
            rendered = try_chat(tokenizer, messages, arguments, [TOOL])
            last = try_chat(tokenizer, messages, arguments) if role == "tool" else rendered
        except InvalidInputError as error:
            reason = str(error).removeprefix("the model's chat template refuses the conversation: ")
            return f"{part} ({reason.split('; ')[0]})"
        if not all(word in rendered for word in expected) or content not in last:
            return part
    return ""


def parse_call(
    text: str, finish_reason: str, state: RolloutState, *, opened: bool = False
) -> Action:
    """A call of the search function or an answer, whichever comes first; of several calls the
    first. A malformed call and a call of another function are invalid.

    Thoughts are left out, but a marked call ends a thought that has no end, if nothing was said
    before. `opened`: the prompt opened a thought.
    """
    said, unfinished = split_thoughts(text, opened=opened)
    said = without_end_tokens(said)
    calls, in_thought = find_calls(said), False
    answer = said.find("<answer>")
    if not calls and answer < 0 and unfinished is not None:
        calls, in_thought = find_calls(without_end_tokens(unfinished), marked_only=True), True
    if not calls or 0 <= answer < calls[0].start:
        return parse_action(said, finish_reason=finish_reason, may_search=False)
    query, error = _query(calls[0])
    facts = CallFacts(error, len(calls) - 1, in_thought)
    if state.may_search and query:
        return Action("search", query, facts)
    return Action("invalid", call=facts)


def _query(call: Call) -> tuple[str, str]:
    """The query of a call, or an empty one and why the call is not valid."""
    if call.arguments is None:
        return "", "the call cannot be read"
    if call.name != "search":
        return "", f"unknown function {call.name[:40]!r}"
    query = call.arguments.get("query")
    query = query.strip() if isinstance(query, str) else ""
    return query, "" if query else "no query"


TOOL_CALL = Method(
    "tool_call",
    ToolCallProtocol,
    searches=True,
    served={"chat": ServedToolCallProtocol},
    tools=(TOOL,),
)
