"""A model behind an OpenAI-compatible server: same answers as in this process, failures told
clearly, a judge.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Finished, Playground, StartedTspo, run_tspo
from tests.evaluation.openai_server import Served, serve
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient
from tspo_cli.rollout.engines.endpoint.endpoint_engine import (
    EndpointEngine,
    EndpointOptions,
    end_of_turn,
)
from tspo_cli.rollout.engines.endpoint.word_tokenizer import WordTokenizer
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.runs import read_jsonl_gz

Tspo = Callable[..., Finished]


@pytest.fixture(scope="module")
def served(playground: Playground) -> Iterator[tuple[Served, str]]:
    model = Served(playground.model, key="secret")
    with serve(model.app()) as url:
        yield model, url


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")


def answers(folder: Path) -> list[tuple[str | None, list[str | None], int]]:
    return [
        (
            item["answer"],
            [turn["query"] for turn in item["trajectory"]["turns"]],
            item["response_tokens"],
        )
        for item in read_jsonl_gz(folder / "world.items.jsonl.gz")
    ]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_with_the_same_bytes(
    playground: Playground, tspo: Tspo, served: tuple[Served, str], tmp_path: Path
) -> None:
    model, url = served
    data = ["--data", playground.world / "train.jsonl", "--index", playground.index, "--limit", 24]
    remote = [
        "--endpoint",
        url,
        "--set",
        "endpoint.concurrency=2",
        "--set",
        "eval.portion=4",
        "--set",
        "endpoint.model=tiny",
        "--set",
        ('endpoint.extra={"return_token_ids": true}'),
    ]
    options = ["eval", playground.model, *data, *remote, "--out"]
    tspo(*options, tmp_path / "whole")
    model.delay = 0.05
    partial = tmp_path / "killed" / "world.partial.jsonl"
    process = StartedTspo(*options, tmp_path / "killed")
    while process.poll() is None and not (
        partial.exists() and partial.read_bytes().count(b"\n") > 4
    ):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "killed while it was at work"
    model.delay = 0.0
    model.requests.clear()
    tspo(*options, tmp_path / "killed", "--resume")
    assert len(model.requests) > 0
    for name in ("world.json", "world.items.jsonl.gz"):
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes(), name


@pytest.mark.slow
def test_an_endpoint_answers_as_the_model_in_this_process(
    playground: Playground, tspo: Tspo, served: tuple[Served, str], tmp_path: Path
) -> None:
    model, url = served
    options = [
        "--data",
        playground.world / "test.jsonl",
        "--index",
        playground.index,
        "--limit",
        12,
        "--json",
    ]
    tspo("eval", playground.model, *options, "--out", tmp_path / "here")
    model.requests.clear()
    model.failures = [503, 429]
    remote = ["--endpoint", url, "--set", "endpoint.concurrency=4", "--set", "endpoint.model=tiny",
              "--set", 'endpoint.extra={"return_token_ids": true}']  # fmt: skip
    done = tspo("eval", playground.model, *options, *remote, "--out", tmp_path / "there")
    assert answers(tmp_path / "here") == answers(tmp_path / "there")
    assert all(
        isinstance(body["prompt"], list) and body["model"] == "tiny" for body in model.requests
    )
    digests = json.loads(done.out)["results"][0]["digests"]
    assert (digests["model"], digests["engine"]) == ("tiny", "completions")
    (item, *_) = read_jsonl_gz(tmp_path / "there" / "world.items.jsonl.gz")
    assert all(turn["logprob"] is None for turn in item["trajectory"]["turns"] if turn["tokens"])
    assert "secret" not in "".join(
        path.read_text("utf-8") for path in (tmp_path / "there").glob("*.json")
    )


@pytest.mark.slow
def test_a_hosted_chat_model_without_tokenizer(
    playground: Playground, tspo: Tspo, served: tuple[Served, str], tmp_path: Path
) -> None:
    """Messages: prompt, action, observation, action, ... The same texts give the same answers as
    the plain prompt.
    """
    model, url = served
    options = ["--data", playground.world / "test.jsonl", "--index", playground.index, "--limit", 6]
    style = [
        "--set",
        "rollout.prompt=short",
        "--set",
        "rollout.max_searches=2",
        "--set",
        "retriever.k=2",
    ]
    limits = ["--set", "rollout.max_new_tokens=32", "--set", "rollout.max_observation_tokens=400"]
    model.requests.clear()
    chat = ["--endpoint", url, "--set", "endpoint.api=chat", "--set", "rollout.system=Be brief."]
    tspo("eval", "tiny", *options, *style, *limits, *chat, "--out", tmp_path / "chat")
    assert len(answers(tmp_path / "chat")) == 6
    for body in model.requests:
        roles = [message["role"] for message in body["messages"]]
        assert roles == ["system", "user", *["assistant", "user"] * ((len(roles) - 2) // 2)]
        assert body["stop"] == ["</search>", "</answer>"]
    items = list(read_jsonl_gz(tmp_path / "chat" / "world.items.jsonl.gz"))
    assert len(model.requests) == sum(item["turns"] for item in items)
    searches = sum(item["searches"] for item in items)
    assert searches > 0
    shown = [
        body["messages"][-1]["content"] for body in model.requests if len(body["messages"]) > 2
    ]
    assert sum("<information>" in text for text in shown) == searches, (
        "what was found is the user's next message"
    )


def test_failures_of_an_endpoint_are_told(
    served: tuple[Served, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, url = served
    good = EndpointClient(url, key_env="OPENAI_API_KEY", retries=1)
    model.failures = [503, 503]
    with pytest.raises(RemoteServiceError, match="status 503"):
        good.post("/completions", {"prompt": "x", "temperature": 0, "max_tokens": 1})
    monkeypatch.setenv("OPENAI_API_KEY", "guess")
    count = len(model.requests)
    with pytest.raises(RemoteServiceError, match=r"status 401: .*wrong key.*OPENAI_API_KEY"):
        EndpointClient(url, key_env="OPENAI_API_KEY").post("/completions", {})
    with pytest.raises(RemoteServiceError, match=r"no key was sent \(endpoint.key_env names UNSET"):
        EndpointClient(url, key_env="UNSET").post("/completions", {})
    assert len(model.requests) == count, "a refusal is not repeated"
    with pytest.raises(RemoteServiceError, match=r"127\.0\.0\.1:9"):
        EndpointClient("http://127.0.0.1:9/v1", retries=0).post("/completions", {})
    with pytest.raises(InvalidInputError, match="expected a URL"):
        EndpointClient("localhost:8000")
    with pytest.raises(RemoteServiceError, match=r":9/completions: .*; is the server running\?"):
        EndpointClient("http://127.0.0.1:9", retries=0).post("/completions", {})
    with pytest.raises(RemoteServiceError, match=r"status 404: .*; the address of most .* /v1"):
        EndpointClient(url.removesuffix("/v1"), key_env="OPENAI_API_KEY").post("/completions", {})


@pytest.mark.slow
def test_a_failing_endpoint_ends_the_evaluation_and_it_resumes(
    playground: Playground, tspo: Tspo, served: tuple[Served, str], tmp_path: Path
) -> None:
    model, url = served
    options = [
        "eval",
        playground.model,
        "--data",
        playground.world / "test.jsonl",
        "--method",
        "direct",
        "--endpoint",
        url,
        "--set",
        "endpoint.concurrency=1",
        "--set",
        "endpoint.retries=0",
    ]
    model.requests.clear()
    tspo(*options, "--out", tmp_path / "whole")
    asked = len(model.requests)
    handler = Failing(model, after=7)
    with serve(handler.app()) as other:
        broken = [other if word == url else word for word in options]
        done = run_tspo(*broken, "--out", tmp_path / "broken")
        assert done.code == 5, done.err
        assert done.err.count("error: ") == 1
    model.requests.clear()
    tspo(*options, "--out", tmp_path / "broken", "--resume")
    assert len(model.requests) == asked - 7, "what was answered is not asked again"
    for name in ("world.json", "world.items.jsonl.gz"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Failing:
    """The served model until it has answered `after` requests."""

    def __init__(self, model: Served, after: int) -> None:
        self.model, self.left = model, after

    def app(self) -> FastAPI:
        app = self.model.app()

        @app.middleware("http")
        async def fail(request: Any, proceed: Any) -> Any:
            from fastapi.responses import JSONResponse

            self.left -= request.method == "POST"
            return (
                await proceed(request) if self.left >= 0 else JSONResponse({"error": "gone"}, 500)
            )

        return app


@pytest.mark.parametrize(
    ("text", "finish", "told", "before", "expected"),
    [
        ("<search> a", "stop", None, "", ("<search> a</search>", "stop")),
        (
            "<think> x </think><answer> a",
            "stop",
            None,
            "",
            ("<think> x </think><answer> a</answer>", "stop"),
        ),
        ("Paris", "stop", None, "Question: where?\n<answer>", ("Paris</answer>", "stop")),
        ("plain", "stop", None, "inside <answer> and </answer>.\n", ("plain", "eos")),
        ("plain", "stop", "</search>", "", ("plain</search>", "stop")),
        ("<search> a", "length", None, "", ("<search> a", "length")),
        ("<answer> a </answer> more", "length", None, "", ("<answer> a </answer>", "stop")),
        (
            "<search> a </search> <answer> b </answer>",
            "stop",
            None,
            "",
            ("<search> a </search>", "stop"),
        ),
        ("", "stop", None, "", ("", "eos")),
    ],
)
def test_end_of_turn(
    text: str, finish: str, told: str | None, before: str, expected: tuple[str, str]
) -> None:
    assert end_of_turn(text, finish, told, ("</search>", "</answer>"), before) == expected


def test_a_stop_token_leaves_a_block_open() -> None:
    stop = ("</search>", "</answer>")
    assert end_of_turn("<search> a", "stop", 7, stop) == ("<search> a", "eos")
    assert end_of_turn("<search> a", "stop", "END", stop, others=["END"]) == ("<search> a", "eos")
    assert end_of_turn("<search> a", "stop", "end_turn", stop) == ("<search> a</search>", "stop")


def test_search_o1_queries_are_closed() -> None:
    stop = ("<|end_search_query|>", "</answer>")
    text = "I need <|begin_search_query|> Alien"
    assert end_of_turn(text, "stop", None, stop) == (text + "<|end_search_query|>", "stop")


@given(st.text())
def test_words_lose_nothing(text: str) -> None:
    tokenizer = WordTokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer(text)["input_ids"] == ids


def test_words_are_about_tokens() -> None:
    text = "The Sun is the star at the centre of the Solar System, a massive sphere of hot plasma."
    assert 17 <= len(WordTokenizer()(text)["input_ids"]) <= 26


def test_an_endpoint_takes_no_weights() -> None:
    client = EndpointClient("http://127.0.0.1:9/v1")
    engine = EndpointEngine(client, WordTokenizer(), EndpointOptions("m", api="chat"))
    with pytest.raises(InvalidInputError, match="no weights"):
        engine.load_weights(None, 1)
    assert engine.step() == []


def test_released_sessions_are_forgotten(served: tuple[Served, str]) -> None:
    _, url = served
    client = EndpointClient(url, key_env="OPENAI_API_KEY")
    engine = EndpointEngine(client, WordTokenizer(), EndpointOptions("m", api="completions"))
    ids = tuple(engine.tokenizer("Question: who?")["input_ids"])
    engine.submit(GenerationRequest(1, ids, Sampling(temperature=0, max_new_tokens=4)))
    engine.submit(GenerationRequest(2, ids, Sampling(temperature=0, max_new_tokens=4)))
    engine.release(1)
    done = []
    while not done:
        done = engine.step()
    assert [request.session for request in done] == [2]
    assert engine.step() == []
