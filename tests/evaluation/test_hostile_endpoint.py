"""Servers of a hosted model that answer what none should: a line or a reason, in time."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import sys
import time
from typing import Any, Literal

import pytest

from tests.retrieval.remote.faulty_server import MODES, Mode, Send, answer, faulty, http, raw
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import rule_problems
from tspo_cli.errors import InvalidInputError, MissingResourceError, RemoteServiceError
from tspo_cli.models.tokenizer_protocol import Tokenizer, decode, encode
from tspo_cli.retrieval.server.listen import listen
from tspo_cli.rollout.engines.endpoint import endpoint_client
from tspo_cli.rollout.engines.endpoint.chat_reply import read_reply
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient
from tspo_cli.rollout.engines.endpoint.endpoint_engine import EndpointEngine, EndpointOptions
from tspo_cli.rollout.engines.endpoint.word_tokenizer import WordTokenizer
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling

Api = Literal["chat", "completions"]
DEEP = b'{"choices":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
KEY = "sk-a/very-secret-key"


def sent(name: str) -> Send:
    (mode,) = [mode for mode in MODES if mode.name == name]
    return mode.send


def drip_body(conn: socket.socket, count: int) -> None:
    """A body whose bytes come one by one, and never its last."""
    conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(40):
        conn.sendall(b"1\r\n \r\n")
        time.sleep(0.05)


HOSTILE = (
    ("deep JSON", raw(http(DEEP)), "expected a JSON object"),
    ("deep JSON of an error", raw(http(DEEP, "500 Error")), "status 500"),
    ("5000 digits", raw(http(b'{"x": %s}' % (b"1" * 5000))), "expected a JSON object"),
    ("half a JSON", sent("half a JSON"), "expected a JSON object"),
    ("broken gzip", sent("broken gzip"), "cannot decode its response"),
    ("broken deflate", sent("broken deflate"), "expected a JSON object"),
    ("gzip in gzip", sent("gzip in gzip"), "encoding"),
    ("unknown encoding", sent("unknown encoding"), "zpaq"),
    (
        "gzip bomb",
        raw(http(gzip.compress(b" " * (70 << 20)), "200 OK", "Content-Encoding: gzip")),
        "more than 64 MiB",
    ),
    ("error of 70 MiB", raw(http(b"x" * (70 << 20), "500 Error")), "status 500.* than 64 MiB"),
    ("odd charset", raw(http(b"\xff", "500 E", "Content-Type: text/plain; charset=zlib")), "500"),
    ("drip in the head", sent("drip in the head"), "no response in time"),
    ("drip in the body", drip_body, "no response in time"),
    ("redirect", sent("redirect to another host"), "status 302.*redirect is not followed"),
    ("redirect to data", sent("redirect to no address"), "status 303.*redirect is not followed"),
    ("a key twice", raw(http(b'{"choices": [], "choices": [{"text": "a"}]}')), '"choices" twice'),
    ("cut in the body", raw(http(b"{}", length=50)), "peer closed"),
)


@pytest.mark.parametrize(
    ("send", "reason"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE]
)
def test_a_hostile_answer_ends_in_one_line(send: Send, reason: str) -> None:
    timeout = 0.3 if "in time" in reason else 20.0
    with faulty(Mode("hostile", "failed", send)) as server:
        client = EndpointClient(server.url, retries=0, timeout=timeout)
        with pytest.raises(RemoteServiceError, match=reason) as told:
            client.post("/completions", {})
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        ("socks5://user:sekret12@127.0.0.1:1080", "socksio"),
        ("socks://127.0.0.1:1080", "expected proxies like http://"),
        ("ftp://user:sekret12@127.0.0.1:9", "expected proxies like http://"),
        ("http://user:sekret12@h:port", "expected proxies like http://"),
    ],
)
@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
def test_a_proxy_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str, says: str
) -> None:
    """ALL_PROXY=socks://..., which desktops set, ended every evaluation in a traceback."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(
        (InvalidInputError, MissingResourceError), match=f"{variable}: .*{says}"
    ) as (told):
        EndpointClient("http://127.0.0.1:1/v1")
    assert "sekret" not in str(told.value)


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".org"])
def test_a_name_that_no_host_has_is_one_line(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """`http://gpu1..cluster/v1` ended in a traceback of Python's resolver."""
    with pytest.raises(InvalidInputError, match="endpoint: expected a URL like"):
        EndpointClient(f"http://{host}/v1")
    with pytest.raises(MissingResourceError, match="no host can have this name"):
        listen(host, 0)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{host}:3128")
    with pytest.raises(RemoteServiceError, match="no host can have the name"):
        EndpointClient("http://example.org/v1", retries=0).post("/completions", {})


@pytest.mark.parametrize("key", ["sk-proj-1234abcd5678", "Bearer abcd1234", "1abc"])
def test_a_key_in_the_place_of_its_variable_is_not_repeated(key: str) -> None:
    """It stood in the error and in eval.json, which everyone may read."""
    with pytest.raises(InvalidInputError, match="key_env: expected the name of") as told:
        EndpointClient("http://127.0.0.1:1/v1", key_env=key)
    assert key not in str(told.value)
    settings = [f"{section}.key_env={key}" for section in ("endpoint", "judge")]
    problems = [*rule_problems(load_config([], settings))]
    assert {"endpoint.key_env", "judge.key_env"} <= {line.split(":")[0] for line in problems}
    assert key not in " ".join(problems)


@pytest.mark.parametrize("name", ["HTML", "half a JSON", "broken gzip", "empty body", "a list"])
def test_what_is_no_answer_is_asked_for_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with faulty(Mode("well", "answer", sent(name)), faults=2) as server:
        assert "result" in EndpointClient(server.url, retries=2).post("/completions", {})
        assert server.requests == 3


@pytest.mark.parametrize("send", [drip_body, sent("broken gzip"), sent("deep JSON"), sent("null")])
def test_a_list_of_models_that_cannot_be_read_is_none(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    if send is drip_body:
        monkeypatch.setattr(endpoint_client, "PROBE_TIMEOUT", 0.3)
    with faulty(Mode("models", "failed", send), gets=True) as server:
        assert not EndpointClient(server.url).is_vllm()
        assert server.requests == 1


def completion(
    reply: Any,
    api: Api = "chat",
    tokenizer: Tokenizer | None = None,
    *,
    send_ids: bool = False,
    max_new_tokens: int = 16,
) -> Completion:
    """What the engine makes of a response."""
    with faulty(Mode("reply", "answer", answer(reply))) as server:
        engine = EndpointEngine(
            EndpointClient(server.url, retries=0),
            tokenizer or WordTokenizer(),
            EndpointOptions("m", api, send_ids=send_ids),
        )
        ids = tuple(encode(engine.tokenizer, "who?"))
        engine.submit(GenerationRequest(1, ids, Sampling(0.0, max_new_tokens=max_new_tokens)))
        found: list[Completion] = []
        while not found:
            found = engine.step()
        # The conversation goes on with what was said.
        engine.submit(GenerationRequest(1, (*ids, *found[0].token_ids), Sampling(0.0)))
        while not engine.step():
            pass
        return found[0]


def chat(**message: Any) -> Any:
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


def called(arguments: Any) -> Any:
    function = {"name": "search", "arguments": arguments}
    return chat(content=None, tool_calls=[{"id": "1", "type": "function", "function": function}])


@pytest.mark.parametrize(
    ("api", "reply", "reason"),
    [
        ("chat", {"choices": [{}]}, 'expected "message"'),
        ("chat", {"choices": [{"message": None}]}, 'expected "message"'),
        ("chat", {"choices": [{"message": "Rome"}]}, 'expected "message"'),
        ("chat", {"choices": [{"text": "Rome"}]}, 'expected "message"'),
        ("completions", chat(content="Rome"), 'expected "text"'),
        ("completions", {"choices": [{"text": "a", "token_ids": [-1]}]}, "expected token ids"),
        ("completions", {"choices": [{"text": "a", "token_ids": [2**70]}]}, "expected token ids"),
        ("completions", {"choices": [{"text": "a", "token_ids": ["a"]}]}, "expected token ids"),
        ("completions", {"choices": [{"text": "a", "token_ids": {}}]}, "expected token ids"),
        ("completions", {"choices": [{"text": "a", "token_ids": [5] * 17}]}, "17 tokens"),
        ("completions", {"choices": [{"text": "a" * 5000}]}, "5000 characters.*allows 16 tokens"),
        ("chat", chat(content="a " * 5000), "10000 characters.*allows 16 tokens"),
        ("chat", called("a" * 5000), r"5\d\d\d characters.*allows 16 tokens"),
    ],
)
def test_a_reply_that_says_nothing_is_no_answer(api: Api, reply: Any, reason: str) -> None:
    said = completion(reply, api, send_ids=api == "completions")
    assert re.search(reason, said.refused)
    assert said.token_ids == ()


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("word", ["error", "abort", "ERROR", "content_filter"])
def test_a_reply_that_the_server_broke_off_is_no_answer(api: Api, word: str) -> None:
    choice = {"message": {"content": "Rome"}, "text": "Rome", "finish_reason": word}
    said = completion({"choices": [choice]}, api)
    assert (said.refused, said.token_ids) == (f"finish_reason {word}", ())


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("where", ["response", "choice"])
@pytest.mark.parametrize("error", ["odd", {"message": "odd", "code": "filtered"}])
def test_a_reply_beside_an_error_is_no_answer(api: Api, where: str, error: Any) -> None:
    choice = {"message": {"content": "Rome"}, "text": "Rome", "finish_reason": "stop"}
    reply = {"choices": [choice]}
    (reply if where == "response" else choice)["error"] = error
    said = completion(reply, api)
    assert "odd" in said.refused
    assert said.token_ids == ()


@pytest.mark.parametrize("nothing", [None, {}, "", False])
def test_an_error_that_says_nothing_is_none(nothing: Any) -> None:
    assert completion(chat(content="Rome") | {"error": nothing}).refused == ""


@pytest.mark.parametrize("word", ["length", "LENGTH", "max_tokens", "MAX_TOKENS"])
def test_a_reply_that_was_cut_says_so(word: str) -> None:
    choice = {"message": {"content": "Rome"}, "finish_reason": word}
    assert completion({"choices": [choice]}).finish_reason == "length"


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_of_several_choices_the_first_by_its_index_counts(api: Api) -> None:
    words = {1: "Paris", 0: "Rome"}
    choices = [
        {"index": index, "message": {"content": word}, "text": word, "finish_reason": "stop"}
        for index, word in words.items()
    ]
    tokenizer = WordTokenizer()
    said = completion({"choices": choices}, api, tokenizer)
    assert decode(tokenizer, said.token_ids) == "Rome"


@pytest.mark.parametrize(
    "message", [{"content": None}, {"content": ""}, {}, {"reasoning_content": "Hm."}]
)
def test_a_message_without_text_is_one(message: dict[str, Any]) -> None:
    said = completion(chat(**message))
    assert (said.refused, said.token_ids) == ("", ())


def text(reply: Any) -> str:
    tokenizer = WordTokenizer()
    said = completion(reply, tokenizer=tokenizer)
    assert said.refused == ""
    return decode(tokenizer, said.token_ids)


@pytest.mark.parametrize("kind", ["reasoning", "thinking"])
def test_a_part_of_a_message_that_is_a_thought_is_no_text(kind: str) -> None:
    thought = {"type": kind, "text": "<answer>London</answer>"}
    assert text(chat(content=[thought, {"type": "text", "text": "Rome"}])) == "Rome"


def test_halves_of_surrogate_pairs_are_replaced(tokenizer: Tokenizer) -> None:
    assert text(chat(content="a \ud83d b \U0001f600")) == "a \ufffd b \U0001f600"
    said = completion({"choices": [{"text": "in \ud83d town"}]}, "completions", tokenizer)
    assert decode(tokenizer, said.token_ids) == "in \ufffd town"
    assert completion(chat(content="", reasoning="\ud83d")).thought == "\ufffd"
    assert "\ufffd" in text(called('{"query": "a \\ud83d"}'))
    assert "\ufffd" in text(called({"\ud83d": "b"}))


@pytest.mark.parametrize("arguments", ["[" * 1500, "1" * 1900, "[" * 450 + "]" * 450, "{"])
def test_arguments_of_a_call_that_cannot_be_read_stay_text(arguments: str) -> None:
    assert text(called(arguments)).startswith('<tool_call>{"name": "search", "arguments": ')


def test_numbers_of_a_call_that_are_not_finite_are_null() -> None:
    assert '"arguments": [null, null]' in text(called([float("nan"), float("inf")]))


def test_the_key_stays_hidden_where_a_server_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    escaped = json.dumps(KEY).replace("/", "\\/")
    replies = [
        '{"choices": [{"message": {"content": %s}}]}',
        '{"choices": [{"message": {"content": "", "reasoning": %s}}]}',
        '{"choices": [{"message": {"content": "", "refusal": %s}}]}',
        '{"choices": [], "why": %s}',
        '{"error": {"message": %s}}',
        '{"error": {"message": %s, "code": 401}}',
        "no JSON: %s",
    ]
    for reply in replies:
        for key in (json.dumps(KEY), escaped) if reply.startswith("{") else (KEY,):
            with faulty(Mode("echo", "answer", raw(http((reply % key).encode())))) as server:
                client = EndpointClient(server.url, key_env="OPENAI_API_KEY", retries=0)
                try:
                    said = repr(read_reply(client.post("/chat/completions", {}), "chat", 16))
                except RemoteServiceError as error:
                    said = str(error)
            assert KEY not in said
            assert "***" in said


def test_the_login_of_a_url_stays_hidden_where_a_server_repeats_it() -> None:
    sent = base64.b64encode(b"user:s3cretpass").decode()
    for reply in ('{"error": {"message": "bad Basic %s, s3cretpass"}}', "no JSON: %s s3cretpass"):
        with faulty(Mode("echo", "answer", raw(http((reply % sent).encode(), "401 No")))) as server:
            url = server.url.replace("//", "//user:s3cretpass@")
            with pytest.raises(RemoteServiceError) as caught:
                EndpointClient(url, retries=0).post("/chat/completions", {})
        said = str(caught.value)
        assert sent not in said
        assert "s3cretpass" not in said


def test_a_refusal_is_one_printable_line() -> None:
    said = completion(chat(content=None, refusal="no\n\x1b[31m\u202e \ud83d"))
    assert said.refused == "the model refused: no ?[31m? \ufffd"
