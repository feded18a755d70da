"""Every form in which models write a call is read; what is no call stays none."""

from __future__ import annotations

import json
import re
import time
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest

from tspo_cli.evaluation.judging.verdict import verdict
from tspo_cli.evaluation.methods.ircot import first_sentence
from tspo_cli.evaluation.methods.plain import _MARKED, after_marker
from tspo_cli.evaluation.methods.tool_call import parse_call
from tspo_cli.rollout.protocol import RolloutState, parse_action
from tspo_cli.rollout.thoughts import split_thoughts

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
        (
            "<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>old mill</arg_value>\n"
            "</tool_call>",
            "search",
            "old mill",
        ),
        ("<tool_call>search\n<arg_key>query</arg_key>", "invalid", None),
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n"
            f"```json\n{Q}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "search",
            "old mill",
        ),
        (
            f"<｜tool▁call▁begin｜>search<｜tool▁sep｜>{Q}<｜tool▁call▁end｜>",
            "search",
            "old mill",
        ),
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.search:0"
            f"<|tool_call_argument_begin|>{Q}<|tool_call_end|>",
            "search",
            "old mill",
        ),
        (
            f"<|channel|>commentary to=functions.search <|constrain|>json<|message|>{Q}<|call|>",
            "search",
            "old mill",
        ),
        ("<|channel|>commentary to=functions.search <|message|>old mill<|call|>", "invalid", None),
        *(
            (text, "search", "old mill")
            for text in (
                '[search(query="old mill")]<|eot_id|>',
                "[search(query='old mill', k=3, new=True), search(query=\"b\")]",
                'I look. [search(query="old mill")]',
                '<|python_start|>[search(query="old mill")]<|python_end|>',
                '<|python_tag|>search.call(query="old mill")<|eom_id|>',
                '<|python_tag|>search(query = "old mill" )',
                f"[TOOL_CALLS]search{Q}</s>",
                f"[TOOL_CALLS]search[CALL_ID]a1b2c3d4e[ARGS]{Q}</s>",
                f"<|start|>assistant to=functions.search<|channel|>commentary json<|message|>{Q}",
                f" to=functions.search<|channel|>commentary json<|message|>{Q}<|call|>",
                f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.search"
                f"<|channel|>commentary <|constrain|>json<|message|>{Q}<|call|>",
                f"<|channel|>analysis to=functions.search code<|message|>{Q}<|call|>",
                '<｜DSML｜function_calls>\n<｜DSML｜invoke name="search">\n'
                '<｜DSML｜parameter name="query" string="true">old mill</｜DSML｜parameter>\n'
                '<｜DSML｜parameter name="k" string="false">3</｜DSML｜parameter>\n'
                "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
                '<minimax:tool_call>\n<invoke name="search">\n<parameter name="query">old mill'
                "</parameter>\n</invoke>\n</minimax:tool_call>",
            )
        ),
        (r'[search(query="a \"b\" c\x41\'\n\d\u00e9")]', "search", 'a "b" cA\'\n\\dé'),
        (r"""[search(query='a "b" \'c\'')]""", "search", "a \"b\" 'c'"),
        ("[search(query=__import__('os').name)] <answer>x</answer>", "answer", None),
        ("It is [f(x)](a.html) [see(a=1)]. <answer>x</answer>", "answer", None),
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
        (f"I do not know that mill, so I look it up.\n\n{J}", "search", "old mill"),
        (f"Let me see: [{J}] I wait for the result.", "search", "old mill"),
        ("Braces {a} {} and [1], then " + J, "search", "old mill"),
        (
            '{"type": "function", "function": {"name": "search", "arguments": '
            + json.dumps(Q)
            + "}}",
            "search",
            "old mill",
        ),
        ('The record is {"name": "Old Mill", "built": 1790}.', "invalid", None),
        (f"{J} <answer>x</answer>", "search", "old mill"),
        (f"<think>I could say {J}</think> Hm.", "invalid", None),
        (f"<think>I could say {J}", "invalid", None),
        (f"<think>The mill. <tool_call>{J}</tool_call>", "search", "old mill"),
        (f"<think>a</think> <tool_call>{J}</tool_call> <think>b</think>", "search", "old mill"),
        (f"<think>They want <answer>x</answer> <tool_call>{J}</tool_call>", "search", "old mill"),
        ("<think>I must write <answer>x</answer>", "invalid", None),
        ("<think>a</think> <think>I must write <answer>x</answer>", "invalid", None),
    ],
)
def test_form(text: str, kind: str, query: str | None) -> None:
    action = parse_call(text, "stop", STATE)
    assert action.kind == kind
    if query is not None:
        assert action.content == query


@pytest.mark.parametrize(
    ("text", "error", "ignored", "in_thought"),
    [
        (f"<tool_call>{J}</tool_call>", "", 0, False),
        (f"<tool_call>{J}</tool_call>" * 3, "", 2, False),
        (f"[TOOL_CALLS][{J}, {J}]", "", 1, False),
        (f"{J}\n{J}", "", 1, False),
        (f"<think>x <tool_call>{J}</tool_call>", "", 0, True),
        ('<tool_call>{"name": "search", "arguments": {"query": old}}', "cannot be read", 0, False),
        ('{"name": "search", "arguments": {"query": "old mill"', "cannot be read", 0, False),
        ("<function=search><parameter=query>old mill", "cannot be read", 0, False),
        ('[TOOL_CALLS]search[ARGS]{"query": ', "cannot be read", 0, False),
        (
            f"<tool_call>{J.replace('search', 'open_page')}",
            "unknown function 'open_page'",
            0,
            False,
        ),
        (f"<tool_call>{J.replace('query', 'q')}", "no query", 0, False),
        (f"<tool_call>{J.replace('old mill', ' ')}", "no query", 0, False),
        ("<function=search></function>", "no query", 0, False),
        ('<invoke name="search"></invoke>', "no query", 0, False),
        ('<invoke name="search"><parameter name="query">old', "cannot be read", 0, False),
        (
            '<｜DSML｜invoke name="search"><｜DSML｜parameter name="query"',
            "cannot be read",
            0,
            False,
        ),
        ('<｜DSML｜invoke name="open"></｜DSML｜invoke>', "unknown function 'open'", 0, False),
        ('[search(query="old mill"), search(query="b")]', "", 1, False),
        ('[search(query="old mill"', "cannot be read", 0, False),
        ('[search(query="old mill")', "cannot be read", 0, False),
        ('[search(query="old mill)]', "cannot be read", 0, False),
        (r'[search(query="\uxyz")]', "cannot be read", 0, False),
        ('[open(page="x")]', "unknown function 'open'", 0, False),
        (f"[search(query='old mill'{', a=1' * 64})]", "cannot be read", 0, False),
        (f"[search(query='{chr(92)}n{'a' * 70000}')]", "cannot be read", 0, False),
        ("<|python_tag|>search.call()", "no query", 0, False),
        ('<|python_tag|>search.call("old mill")', "cannot be read", 0, False),
        ("<|python_tag|>search.call(query=open('x').read())", "cannot be read", 0, False),
        ("<|python_start|>[search(query=a)]", "cannot be read", 0, False),
        ('[TOOL_CALLS]search{"query": ', "cannot be read", 0, False),
        ("<|start|>assistant to=functions.search<|channel|>commentary", "cannot be read", 0, False),
        (f"<tool_call>oops</tool_call> {J}", "cannot be read", 1, False),
    ],
)
def test_what_is_kept_of_calls(text: str, error: str, ignored: int, in_thought: bool) -> None:
    call = parse_call(text, "stop", STATE).call
    assert call is not None
    assert (call.ignored, call.in_thought) == (ignored, in_thought)
    assert error in call.error
    assert bool(error) == bool(call.error)


def test_a_prompt_that_opens_the_thought() -> None:
    """Some templates write <think> themselves: a reply without its end is all thought."""

    def parse(text: str) -> str:
        return parse_call(text, "stop", STATE, opened=True).kind

    assert parse("I must write <answer>x</answer>") == "invalid"
    assert parse(f"I could say {J}") == "invalid"
    assert parse(f"I look. <tool_call>{J}</tool_call>") == "search"
    assert parse("So. </think><answer>x</answer>") == "answer"


PIECES = [
    "<tool_call>", '<tool_call>{"', "<tool_call>[", "<function=", "<function=a>", "{", '{"name":',
    '{"name":1}', '{"id":x', "[", '[{"type"', "[TOOL_CALLS]", "[TOOL_CALLS]a", "<|python_tag|>\n",
    "<parameter=query>", "<think>", "</think>", "<answer>", "<search>", "<|im_end|>", "\n", " ",
    "[a(b='", '[a(b="', "[a(b=\\'", '[a(b="c"),', '[a(b="c", ', "<|python_start|>[a(",
    "<invoke name=", '<invoke name="a">', '<parameter name="a">', "[TOOL_CALLS]a{", "to=functions.",
    "answer is", "answer is:\n", "```json\n", "```\n\n", "\\", '"', "9", ". ", "<|", "a",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_readers_take_linear_time(piece: str) -> None:
    """Characters that look like the beginning of something, many times over."""
    text = "answer is" + piece * (60_000 // len(piece)) + "x"
    for read in (
        lambda: parse_call(text, "stop", STATE),
        lambda: parse_action(text, finish_reason="stop", may_search=True),
        lambda: split_thoughts(text),
        lambda: after_marker(text),
        lambda: first_sentence(text),
        lambda: verdict(text),
    ):
        start = time.process_time()
        read()
        assert time.process_time() - start < 0.5, "quadratic time is minutes"


def test_the_last_marker_is_the_last_of_all_matches() -> None:
    """It is looked for from the end, which must not change what is found."""
    draw = Random(0)
    parts = [
        "answer",
        "Answer",
        "ANSWER",
        "an\u017fwer",
        "\u0130",
        " is",
        " the",
        "final ",
        ":",
        "**",
    ]
    parts += [":", "**", " ", "\n", "x", "so ", "s"]
    for _ in range(20_000):
        text = "".join(draw.choices(parts, k=draw.randrange(1, 14)))
        matches = list(_MARKED.finditer(text))
        line = re.split("[\n\r\v\f]", text[matches[-1].end() :])[0] if matches else ""
        assert after_marker(text) == (line.strip("* \t") or None), text
    many = "answer " * 100 + "answer: x\n" + "answer " * 100
    assert after_marker(many) == "x"
