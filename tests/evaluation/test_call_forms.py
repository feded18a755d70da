"""Every form in which models write a call is read; what is no call stays none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from tspo_cli.evaluation.methods.tool_call import parse_call
from tspo_cli.rollout.protocol import RolloutState

Q = '{"query": "old mill"}'
J = '{"name": "search", "arguments": ' + Q + "}"
STATE = cast(RolloutState, SimpleNamespace(may_search=True))


@pytest.mark.parametrize(
    ("text", "kind", "query"),
    [
        (f"<tool_call>\n{J}\n</tool_call>", "search", "old mill"),
        (J.replace("arguments", "parameters") + "<|eot_id|>", "search", "old mill"),
        (r'{"name": "search", "arguments": "{\"query\": \"old mill\"}"}', "search", "old mill"),
        (f"```json\n{J}\n```", "search", "old mill"),
        (f"[{J}]", "search", "old mill"),
        (f"<|python_tag|>{J}<|eom_id|>", "search", "old mill"),
        (f"<function=search>{Q}</function>", "search", "old mill"),
        (f"[TOOL_CALLS][{J}]</s>", "search", "old mill"),
        (f"[TOOL_CALLS]search[ARGS]{Q}</s>", "search", "old mill"),
        (
            "<tool_call>\n<function=search>\n<parameter=query>\nold mill\n</parameter>\n"
            "</function>\n</tool_call>",
            "search",
            "old mill",
        ),
        (J.replace("old", r"\"old\" {"), "search", '"old" { mill'),
        (J.replace("old", r"\u00e9"), "search", "é mill"),
        (J.replace("old ", "old\n"), "search", "old\nmill"),
        (f"<tool_call>{J}</tool_call></think><answer>x</answer>", "answer", None),
        (f"<answer>x</answer><tool_call>{J}</tool_call>", "answer", None),
        (f"<tool_call>{J}</tool_call><answer>x</answer>", "search", "old mill"),
        (f"<tool_call>{J}</tool_call>" * 2, "search", "old mill"),
        (
            '<tool_call>{"name": "x"}</tool_call>' + f"<tool_call>{J}</tool_call>",
            "invalid",
            None,
        ),
        (J.replace("search", "open"), "invalid", None),
        ('<tool_call>{"name": "search", "argum', "invalid", None),
        ("<tool_call>" + "[" * 100000, "invalid", None),
        ('{"query": "old mill"}', "invalid", None),
    ],
)
def test_form(text: str, kind: str, query: str | None) -> None:
    action = parse_call(text, "stop", STATE)
    assert action.kind == kind
    if query is not None:
        assert action.content == query
