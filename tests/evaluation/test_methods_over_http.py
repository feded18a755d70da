"""Every method with a model behind HTTP that does what it is told: the expected forms arrive, and
all keep to the same limits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.evaluation.openai_server import serve
from tests.evaluation.reader_server import Reader
from tspo_cli.commands.app import app
from tspo_cli.errors import RemoteServiceError
from tspo_cli.runs import read_jsonl_gz

FINDS_IT = ("search_r1", "ircot", "search_o1", "iter_retgen", "tool_call")
LIMITS = {"rollout.max_searches": 2, "rollout.max_new_tokens": 40, "retriever.k": 1}


def evaluate(
    films: Path, url: str, out: Path, method: str, api: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    options = [
        "eval",
        "reader",
        "--data",
        str(films / "films.jsonl"),
        "--index",
        str(films / "index"),
    ]
    options += [
        "--endpoint",
        url,
        "--method",
        method,
        "--out",
        str(out),
        "--json",
        "--set",
        f"endpoint.api={api}",
    ]
    for key, value in LIMITS.items():
        options += ["--set", f"{key}={value}"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, (done.exception, done.stderr)
    (item,) = read_jsonl_gz(out / "films.items.jsonl.gz")
    return json.loads(done.stdout)["results"][0], item


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(
    "method",
    ["search_r1", "direct", "cot", "rag", "ircot", "search_o1", "iter_retgen", "tool_call"],
)
def test_a_model_that_does_what_it_is_told(
    films: Path, reader: tuple[Reader, str], tmp_path: Path, method: str, api: str
) -> None:
    server, url = reader
    if (method, api) == ("tool_call", "completions"):
        pytest.skip("needs a tokenizer with a template for tools")
    server.requests.clear()
    scores, item = evaluate(films, url, tmp_path, method, api)
    assert scores["em"] == float(method in FINDS_IT), item["trajectory"]
    assert item["invalid_turns"] == 0
    assert item["searches"] == {"direct": 0, "cot": 0, "rag": 1}.get(method, 2)
    assert scores["gold_recall"] == {"direct": 0, "cot": 0, "rag": 0.5}.get(method, 1)
    assert item["answer"] == ("South Shields" if method in FINDS_IT else "unknown")
    asked = server.requests[int(method == "tool_call") :]  # the first one checks the tools
    assert {(body["max_tokens"], body["temperature"]) for body in asked} == {(40, 0)}, (
        "the same limits"
    )
    assert scores["latency"]["p50"] > 0
    for turn in item["trajectory"]["turns"]:
        assert "and so on" not in turn["text"], (
            "what comes after the stop string is not part of the turn"
        )


@pytest.mark.parametrize("owner", ["vllm", "somebody"])
def test_only_vllm_is_asked_for_sampled_ids(films: Path, tmp_path: Path, owner: str) -> None:
    """Hosted servers refuse fields that they do not know."""
    server = Reader(owner)
    with serve(server.app()) as url:
        evaluate(films, url, tmp_path, "rag", "completions")
    asked = {"skip_special_tokens": False, "return_token_ids": True} if owner == "vllm" else {}
    (body,) = server.requests
    assert {
        name: body[name] for name in body if name in ("skip_special_tokens", "return_token_ids")
    } == asked


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_notes_arrive_whole(
    films: Path, reader: tuple[Reader, str], tmp_path: Path, api: str
) -> None:
    """The server tells no end-of-sequence token, so nothing of a note may be taken for one."""
    server, url = reader
    server.requests.clear()
    evaluate(films, url, tmp_path, "search_o1", api)
    last = json.dumps(server.requests[-1])
    assert "<|begin_search_result|> director is Ridley Scott. <|end_search_result|>" in last
    assert "<|begin_search_result|> was born in South Shields. <|end_search_result|>" in last


def test_tools_of_a_chat_api(films: Path, reader: tuple[Reader, str], tmp_path: Path) -> None:
    """The function travels with every request, also with the one before the questions, and its
    result as the tool's message, under the id of the call.
    """
    server, url = reader
    server.requests.clear()
    _, item = evaluate(films, url, tmp_path, "tool_call", "chat")
    assert [body["tools"][0]["function"]["name"] for body in server.requests] == ["search"] * 4
    roles = [[message["role"] for message in body["messages"]] for body in server.requests]
    assert roles[-1] == ["user", "assistant", "tool", "assistant", "tool"]
    last = server.requests[-1]["messages"]
    assert last[2]["tool_call_id"] == last[1]["tool_calls"][0]["id"]
    assert (
        last[2]["content"]
        == 'Doc 1(Title: "Alien") Alien is a film whose director is Ridley Scott.'
    )
    assert [turn["query"] for turn in item["trajectory"]["turns"]] == [
        "Alien film director",
        "Ridley Scott born",
        None,
    ]


@pytest.mark.parametrize("with_ids", [True, False])
def test_of_several_calls_each_gets_its_own_reply(
    films: Path, tmp_path: Path, with_ids: bool
) -> None:
    """The passages answer the call that was executed; the others are told that they were not. Calls
    without an id get one.
    """
    server = Reader(calls=3, with_ids=with_ids)
    with serve(server.app()) as url:
        scores, item = evaluate(films, url, tmp_path, "tool_call", "chat")
    messages = server.requests[-1]["messages"]
    assert [message["role"] for message in messages[1:5]] == ["assistant", *["tool"] * 3]
    ids = [call["id"] for call in messages[1]["tool_calls"]]
    assert [message["tool_call_id"] for message in messages[2:5]] == ids
    results = [message for message in messages if message["role"] == "tool"]
    assert len({message["tool_call_id"] for message in results} - {None}) == len(results)
    assert "Ridley Scott" in messages[2]["content"]
    for message in messages[3:5]:
        assert message["content"].startswith("Only the first call")
    assert item["trajectory"]["turns"][0]["ignored_calls"] == 2
    assert (scores["em"], scores["invalid_calls"], item["searches"]) == (1, 0, 2)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'),
        (400, "registry/model does not support tools"),
        (422, "tools: Extra inputs are not permitted"),
        (500, "tools param requires a flag of the server"),
    ],
)
def test_a_server_that_refuses_tools_is_told_before_the_questions(
    films: Path, tmp_path: Path, status: int, message: str
) -> None:
    server = Reader()
    server.without_tools = (status, message)
    with serve(server.app()) as url:
        done = CliRunner().invoke(
            app,
            ["eval", "reader", "--data", str(films / "films.jsonl"), "--index",
             str(films / "index"), "--endpoint", url, "--method", "tool_call", "--out",
             str(tmp_path / "out"), "--set", "endpoint.api=chat", "--set", "endpoint.retries=0"],
        )  # fmt: skip
        assert isinstance(done.exception, RemoteServiceError)
        assert message in str(done.exception)
        assert "--enable-auto-tool-choice --tool-call-parser NAME" in str(done.exception)
        assert [bool(body.get("tools")) for body in server.requests] == [True, False]
        evaluate(films, url, tmp_path, "search_r1", "chat")
    assert len(server.requests) > 2, "other methods send no tools"


@pytest.mark.parametrize(
    "call",
    [
        {"function": {"name": "browse", "arguments": '{"query": "x"}'}},
        {"function": {"name": "search", "arguments": "not JSON"}},
        {"function": {"name": "search", "arguments": None}},
        {"function": None},
        "nonsense",
    ],
)
def test_calls_that_are_none(call: Any) -> None:
    """Another function, or no arguments: an invalid turn, told to the model, and never a search or
    a crash.
    """
    from tspo_cli.data.question import Question
    from tspo_cli.evaluation.methods.tool_call import parse_call
    from tspo_cli.rollout.engines.endpoint.endpoint_engine import call_text
    from tspo_cli.rollout.protocol import RolloutState

    state = RolloutState(Question("1", "?", ("x",), "d"), (), may_search=True)
    assert parse_call(call_text(call), "stop", state).kind == "invalid"
