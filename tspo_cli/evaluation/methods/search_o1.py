"""Search-o1 (Li et al. 2025): queries inside the reasoning, and notes instead of passages.

After a search, a separate prompt shows the passages and asks the model for a note on what is
useful. Only the note enters the reasoning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tspo_cli.evaluation.methods.method import Method, spoken
from tspo_cli.rollout.protocol import (
    Action,
    RolloutState,
    SearchProtocol,
    parse_action,
)
from tspo_cli.rollout.thoughts import hide_thoughts

QUERY, QUERY_END = "<|begin_search_query|>", "<|end_search_query|>"
RESULT, RESULT_END = "<|begin_search_result|>", "<|end_search_result|>"
REASON = (
    "Answer the question by reasoning step by step. Whenever you lack a fact, write a query as "
    f"{QUERY} your query {QUERY_END}; what is found comes back between {RESULT} and {RESULT_END}. "
    "Then go on. Finish "
    "with only the final answer, as short as possible, inside <answer> and </answer>.\nQuestion: "
    "{question}\n"
    "{reasoning}"
)
LAST = (
    "Answer the question by reasoning step by step; no more searches are possible. Finish with "
    "only the final answer, "
    "as short as possible, inside <answer> and </answer>.\nQuestion: {question}\n{reasoning}"
)
READ = (
    "Below are the reasoning about a question so far, a search query from it, and the passages "
    "that were found. Write "
    "down, in a few sentences, only what helps the reasoning to go on; if nothing does, say so.\n"
    "Reasoning: {reasoning}\nQuery: {query}\nPassages:\n{passages}\nUseful: "
)


class SearchO1Protocol(SearchProtocol):
    """Reasoning with queries, and notes about passages."""

    stop: ClassVar[tuple[str, ...]] = (QUERY_END,)
    stop_outside: ClassVar[tuple[str, ...]] = ("</answer>",)

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """After a search a note; else the first query or answer. Queries are part of the reasoning;
        an answer within a thought that has its end is none.
        """
        if _reads(state):
            return Action("note", text.strip())
        said = hide_thoughts(text, opened=self.opens_thought, ended_only=True)
        action = parse_action(said, finish_reason=finish_reason, may_search=False)
        _, _, after = text.partition(QUERY)
        query, end, _ = after.partition(QUERY_END)
        if not end or action.kind == "answer":
            return action
        content = query.strip()
        return Action("search", content) if state.may_search and content else Action("invalid")

    def correction(self, ids: Sequence[int] = ()) -> tuple[str, list[int]]:
        """Empty: every prompt is built from the start."""
        return "", []

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """After a search the prompt to read its passages; else question and reasoning so far."""
        reasoning = "".join(
            f"\n{RESULT} {spoken(self, turn).strip()} {RESULT_END}\n"
            if turn.kind == "note"
            else spoken(self, turn)
            for turn in state.turns
        )
        if not _reads(state):
            values = {
                "question": self.question_text(state.question.question),
                "reasoning": reasoning,
            }
            return self.fill(REASON if state.may_search else LAST, values)
        search = state.turns[-1]
        passages = self.cut(self.passages(search.hits), self.max_observation_tokens)
        return self.fill(
            READ, {"reasoning": reasoning, "query": search.query or "", "passages": passages}
        )


def _reads(state: RolloutState) -> bool:
    return bool(state.turns) and state.turns[-1].kind == "search"


SEARCH_O1 = Method("search_o1", SearchO1Protocol, searches=True)
