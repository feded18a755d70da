"""SFT files of other tools: which are read, what is trained of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tspo_cli.config.schema import Config, RolloutConfig
from tspo_cli.digests import text_digest
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.sequences import ScriptedTrajectory, demonstration_sequence
from tspo_cli.training.sft.demonstration_file import read_demonstrations
from tspo_cli.training.start.inputs import TrainingInputs
from tspo_cli.training.start.same_inputs import input_digests

ASKED = {"role": "user", "content": "Who built the Old Light?"}
SEARCH = "<think> Its builder. </think> <search> lighthouse builder </search>"
BODY = "Ada Brook built it. </search> is no tag here."
PASSAGE = f'Doc 1(Title: "Old Light") {BODY}'
ANSWER = "<think> Found. </think> <answer> Ada Brook </answer>"
CALL = {"type": "function", "function": {"name": "search", "arguments": '{"query": "builder"}'}}
WRITTEN = '<tool_call>{"name": "search", "arguments": {"query": "builder"}}</tool_call>'
ONE_TEXT = f"{SEARCH}\n\n<information>{PASSAGE}</information>\n\n{ANSWER}<|im_end|>\n"
PROMPT = "Answer the given question. You can search: <search> query </search>. Question: Who?\n"


def one(tmp_path: Path, record: dict[str, Any]) -> ScriptedTrajectory:
    path = tmp_path / "sft.jsonl"
    path.write_text(json.dumps(record) + "\n", "utf-8")
    (demonstration,) = read_demonstrations(path)
    return demonstration


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


@pytest.mark.parametrize(
    "record",
    [
        {
            "messages": [
                said("system", "Search well."),
                ASKED,
                said("assistant", SEARCH),
                said("tool", PASSAGE),
                said("assistant", ANSWER),
            ]
        },
        {
            "messages": [
                ASKED,
                said("assistant", SEARCH),
                said("user", f"<information>{PASSAGE}</information>"),
                said("assistant", [{"type": "text", "text": ANSWER}]),
            ]
        },
        {"messages": [ASKED, said("assistant", ONE_TEXT)]},
        {
            "conversations": [
                {"from": "human", "value": ASKED["content"]},
                {"from": "gpt", "value": SEARCH},
                {"from": "observation", "value": PASSAGE},
                {"from": "gpt", "value": ANSWER},
            ]
        },
        {"prompt": f"Think. Question: {ASKED['content']}\n", "response": ONE_TEXT},
        {"prompt": [ASKED], "response": ONE_TEXT, "extra_info": {"index": 1}},
        {"instruction": "Search.", "question": ASKED["content"], "output": ONE_TEXT},
    ],
)
def test_conversations_become_turns_and_passages(tmp_path: Path, record: dict[str, Any]) -> None:
    demonstration = one(tmp_path, record)
    first, last = demonstration.turns
    assert demonstration.question == ASKED["content"]
    assert (first.text, first.shown, first.hits) == (SEARCH, PASSAGE, ())
    assert (last.text, last.shown) == (ANSWER, None)


def test_calls_and_reasoning_become_tags(tmp_path: Path) -> None:
    demonstration = one(
        tmp_path,
        {
            "messages": [
                ASKED,
                said("assistant", None, tool_calls=[CALL], reasoning_content="Its builder."),
                said("tool", PASSAGE, tool_call_id="1"),
                said("assistant", "Let me look again.", tool_calls=[CALL]),
                said("tool", "nothing"),
                said("assistant", "Ada Brook"),
            ]
        },
    )
    assert [turn.text for turn in demonstration.turns] == [
        "<think> Its builder. </think> <search> builder </search>",
        "<think> Let me look again. </think> <search> builder </search>",
        "<answer> Ada Brook </answer>",
    ]
    shared = one(
        tmp_path,
        {
            "conversations": [
                {"from": "human", "value": "Who?"},
                {"from": "function_call", "value": '{"name": "s", "arguments": {"text": "who"}}'},
                {"from": "function_response", "value": PASSAGE},
                {"from": "gpt", "value": "<think>Yes.</think> Ada"},
            ]
        },
    )
    assert shared.turns[0].text == "<search> who </search>"
    assert shared.turns[1].text == "<think>Yes.</think> <answer> Ada </answer>"


@pytest.mark.parametrize(
    "call",
    [
        '<tool_call>\n{"name": "search", "arguments": {"query": "builder"}}\n</tool_call>',
        '<tool_call>{"name": "s", "parameters": {"query": "builder"}}</tool_call><|im_end|>\n',
        '<tool_call>{"arguments": "{\\"query\\": \\"builder\\"}", "name": "s"}</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": {"queries": ["builder"]}}',
    ],
)
def test_a_call_in_the_text_is_a_search(tmp_path: Path, call: str) -> None:
    """As the chat templates of Hermes and Qwen write calls and results."""
    thought = "<think>\nA <tool_call> helps.\n</think>\n\n"
    demonstration = one(
        tmp_path,
        {
            "conversations": [
                {"from": "human", "value": ASKED["content"]},
                {"from": "gpt", "value": thought + call},
                {"from": "tool", "value": f"<tool_response>\n{PASSAGE}\n</tool_response>"},
                {"from": "gpt", "value": f"Let me look again. {call}"},
                {"from": "human", "value": PASSAGE},
                {"from": "gpt", "value": ANSWER},
            ]
        },
    )
    assert [turn.text for turn in demonstration.turns] == [
        f"{thought.strip()} <search> builder </search>",
        "<think> Let me look again. </think> <search> builder </search>",
        ANSWER,
    ]
    assert [turn.shown for turn in demonstration.turns] == [PASSAGE, PASSAGE, None]


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "search", "parameters": {"query": "who"}}',
        '{"name": "search", "parameters": "{\\"text\\": \\"who\\"}"}',
        '[{"name": "search", "arguments": {"query": "who"}}]',
    ],
)
def test_the_name_of_a_function_is_no_query(tmp_path: Path, call: str) -> None:
    demonstration = one(
        tmp_path,
        {
            "conversations": [
                {"from": "human", "value": "Who?"},
                {"from": "function_call", "value": call},
                {"from": "observation", "value": PASSAGE},
                {"from": "gpt", "value": "Ada"},
            ]
        },
    )
    assert demonstration.turns[0].text == "<search> who </search>"


def test_parquet_of_search_r1(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": PROMPT}], "response": ONE_TEXT}]
    path = tmp_path / "sft.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (demonstration,) = read_demonstrations(path)
    assert demonstration.question == "Who?"
    assert [turn.shown for turn in demonstration.turns] == [PASSAGE, None]


def test_the_input_of_alpaca_belongs_to_the_question(tmp_path: Path) -> None:
    record = {"instruction": "Answer briefly.", "input": "Who built it?", "output": "Ada"}
    assert one(tmp_path, record).question == "Answer briefly.\nWho built it?"
    assert one(tmp_path, record | {"input": "", "history": []}).question == "Answer briefly."


def test_an_explicit_question_may_be_about_a_chat_template(tmp_path: Path) -> None:
    record = {"question": "What does <|im_end|> end?", "response": "A message"}
    assert one(tmp_path, record).question == "What does <|im_end|> end?"


def test_weights_of_one_are_no_mark(tmp_path: Path) -> None:
    reply = said("assistant", ANSWER, weight=1, train=True)
    assert len(one(tmp_path, {"messages": [ASKED, reply]}).turns) == 1


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": []}, "got an empty list"),
        ({"messages": [said("assistant", ANSWER)]}, "begins with a question"),
        ({"messages": [ASKED]}, "an answer of the assistant"),
        ({"messages": [ASKED, ASKED, said("assistant", ANSWER)]}, "a search before every message"),
        ({"messages": [ASKED, said("assistant", SEARCH)]}, "passages after every search"),
        (
            {"messages": [ASKED, said("assistant", SEARCH), said("assistant", ANSWER)]},
            "passages after every search",
        ),
        (
            {"messages": [ASKED, said("assistant", f"{SEARCH} {ANSWER}")]},
            "<information> after every search",
        ),
        (
            {"messages": [ASKED, said("assistant", ANSWER), ASKED, said("assistant", ANSWER)]},
            "a search before every message",
        ),
        ({"messages": [said("narrator", "Once")]}, "message 1 to have a role"),
        ({"messages": [ASKED, said("assistant", "", tool_calls=[CALL, CALL])]}, "one search"),
        (
            {"messages": [ASKED, said("assistant", "", tool_calls=[{"function": {}}])]},
            "to have one query",
        ),
        ({"messages": [ASKED, said("assistant", f"{WRITTEN}{WRITTEN}")]}, "message 2, got 2 calls"),
        ({"messages": [ASKED, said("assistant", f"{WRITTEN} Bo")]}, "got words after its call"),
        ({"messages": [ASKED, said("assistant", "<tool_call>x</tool_call>")]}, "to have one query"),
        ({"messages": [ASKED, said("assistant", WRITTEN)]}, "passages after every search"),
        ({"messages": [said("user", 5)]}, "message 1 to hold text"),
        ({"prompt": "Who?", "response": ""}, '"response" to hold text'),
        ({"prompt": "Who?", "response": f"{ANSWER} and more"}, "more turns after turn 1"),
        ({"conversations": [{"from": "gpt"}]}, "begins with a question"),
        ({"text": "Who?"}, '"question" (a string)'),
        ({"messages": [ASKED, said("assistant", ANSWER, weight=0)]}, "message 2 to be trained"),
        ({"messages": [ASKED, said("assistant", ANSWER, train=False)]}, "message 2 to be trained"),
        (
            {"conversations": [said("user", "Who?"), said("gpt", ANSWER, loss=False)]},
            "message 2 to be trained",
        ),
        (
            {"instruction": "And who sold it?", "output": "Bo", "history": [["Who?", "Ada"]]},
            "one question in a record",
        ),
        ({"prompt": "<|im_start|>user\nWho?<|im_end|>", "response": "Ada"}, "<|im_start|>"),
        ({"prompt": "[INST] Who? [/INST]", "response": "Ada"}, "chat template's [INST]"),
    ],
)
def test_what_is_no_transcript_is_refused_with_its_line(
    tmp_path: Path, record: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "sft.jsonl"
    path.write_text(f"{json.dumps({'messages': [ASKED, said('assistant', ANSWER)]})}\n", "utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(InvalidInputError) as caught:
        read_demonstrations(path)
    assert f"{path}:2: expected" in str(caught.value)
    assert expected in str(caught.value)


def test_runs_of_earlier_versions_keep_the_digest_of_their_demonstrations(tmp_path: Path) -> None:
    record = {
        "question": "Who?",
        "turns": [
            {"text": SEARCH, "passages": [{"id": "1", "contents": '"Old Light"\nAda.'}]},
            {"text": ANSWER},
        ],
    }
    plain = one(tmp_path, record)
    digests = input_digests(Config(kind="sft"), TrainingInputs(None, [], [plain]))
    hits = [{"id": "1", "contents": '"Old Light"\nAda.', "score": 0.0}]
    before = [{"text": SEARCH, "hits": hits}, {"text": ANSWER, "hits": []}]
    assert digests["demonstrations"] == text_digest(
        [json.dumps({"question": "Who?", "turns": before})]
    )
    shown = one(tmp_path, {"messages": [ASKED, said("assistant", ONE_TEXT)]})
    other = one(tmp_path, {"messages": [ASKED, said("assistant", ONE_TEXT.replace("Doc 1", "A"))]})
    of = [
        input_digests(Config(kind="sft"), TrainingInputs(None, [], [made]))["demonstrations"]
        for made in (shown, other)
    ]
    assert of[0] != of[1]


def test_only_what_the_assistant_said_is_trained(tmp_path: Path) -> None:
    """Passages, the question, and invalid turns with their corrections have no weight."""
    protocol = SearchProtocol.from_config(
        tiny_tokenizer(("who", "light"), ("ba", "ko")), RolloutConfig()
    )
    invalid = {"text": "I do not know", "invalid": True}
    turns = [invalid, {"text": SEARCH, "shown": PASSAGE}, {"text": ANSWER}]
    demonstration = one(tmp_path, {"question": "Who?", "turns": turns})
    sequence = demonstration_sequence(demonstration, protocol, 0.0)
    trained = [
        token for token, weight in zip(sequence.token_ids, sequence.weights, strict=True) if weight
    ]
    assert trained == protocol.action_ids(SEARCH) + protocol.action_ids(ANSWER)
    assert (
        protocol.shown(PASSAGE)[1] == protocol.observation([Hit("", f'"Old Light"\n{BODY}', 0)])[1]
    )
