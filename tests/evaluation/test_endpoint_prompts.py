"""What a server is sent where it applies a chat template or adds a beginning of sequence itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from tests.evaluation.openai_server import serve
from tests.models.small_tokenizers import sentencepiece
from tspo_cli.config.schema import Config, RolloutConfig
from tspo_cli.evaluation.answering.open_engine import open_engine
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient
from tspo_cli.rollout.engines.endpoint.endpoint_engine import EndpointEngine, EndpointOptions
from tspo_cli.rollout.engines.endpoint.turn_ends import turn_ends
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.protocol import SearchProtocol


@pytest.fixture(scope="module")
def recorder() -> Iterator[tuple[list[dict[str, Any]], str]]:
    """A server that keeps what it is asked and always gives the same answer."""
    asked: list[dict[str, Any]] = []
    app = FastAPI()

    @app.post("/v1/completions")
    def completions(body: dict[str, Any]) -> dict[str, Any]:
        asked.append(body)
        return {"choices": [{"text": "<answer> x </answer>", "finish_reason": "stop"}]}

    @app.post("/v1/chat/completions")
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        asked.append(body)
        message = {"role": "assistant", "content": "<answer> x </answer>"}
        return {"choices": [{"message": message, "finish_reason": "stop"}]}

    with serve(app) as url:
        yield asked, url


def ask(recorder: tuple[list[dict[str, Any]], str], **options: Any) -> dict[str, Any]:
    """The body of a request with the prompt of a tokenizer that adds a beginning of sequence."""
    asked, url = recorder
    tokenizer = sentencepiece()
    ids = SearchProtocol.from_config(tokenizer, RolloutConfig(prompt="short")).prompt_ids("who")
    assert ids[0] == tokenizer.bos_token_id
    engine = EndpointEngine(
        EndpointClient(url, retries=0), tokenizer, EndpointOptions(model="m", **options)
    )
    engine.submit(GenerationRequest(1, tuple(ids), Sampling()))
    while not engine.step():
        pass
    engine.close()
    return asked[-1]


def test_text_is_sent_without_the_beginning_that_the_server_adds(recorder: Any) -> None:
    assert ask(recorder, api="completions")["prompt"] == "Question: who\n"
    assert ask(recorder, api="chat")["messages"] == [{"role": "user", "content": "Question: who\n"}]
    sent = ask(recorder, api="completions", send_ids=True)["prompt"]
    assert sent[0] == sentencepiece().bos_token_id


@pytest.mark.parametrize(("api", "sent"), [("chat", True), ("completions", False)])
def test_template_arguments_are_sent_where_they_are_set(
    recorder: Any, api: str, sent: bool
) -> None:
    url = recorder[1]
    endpoint = {"url": url, "api": api, "model": "m"}
    for kwargs in ({}, {"enable_thinking": False}):
        config = Config.model_validate(
            {"rollout": {"template_kwargs": kwargs}, "endpoint": endpoint}
        )
        engine = open_engine(config).fresh()
        assert isinstance(engine, EndpointEngine)
        expected = kwargs if sent and kwargs else None
        assert engine.extra.get("chat_template_kwargs") == expected
        engine.close()


def test_stop_tokens_reach_a_server_as_what_it_takes() -> None:
    tokenizer = sentencepiece()
    eos = tokenizer.eos_token
    config = RolloutConfig(stop_tokens=["turn_end", eos, 5])
    ids = sorted({tokenizer.eos_token_id, 5})
    assert turn_ends(config, tokenizer, takes_ids=True, extra={}) == (
        {"stop_token_ids": ids}, (), ()
    )  # fmt: skip
    assert turn_ends(config, None, takes_ids=True, extra={}) == (
        {"stop_token_ids": [5]}, (eos,), ()
    )  # fmt: skip
    fields, texts, (note,) = turn_ends(config, None, takes_ids=False, extra={})
    assert (fields, texts) == ({}, (eos,))
    assert note.startswith("rollout.stop_tokens: 5 cannot be sent")
    assert not turn_ends(config, None, takes_ids=False, extra={"stop_token_ids": [5]}).notes
    assert turn_ends(RolloutConfig(), None, takes_ids=False, extra={}) == ({}, (), ())


def test_a_template_whose_turns_end_with_another_token_is_announced() -> None:
    tokenizer = sentencepiece()
    other = tokenizer.bos_token
    tokenizer.chat_template = (
        "{%- for m in messages %}[{{ m.role }}]{{ m.content }}" + other + "{%- endfor %}"
    )
    (note,) = turn_ends(RolloutConfig(), tokenizer, takes_ids=False, extra={}).notes
    assert f"{other} cannot be sent" in note
    tokenizer.chat_template = tokenizer.chat_template.replace(other, tokenizer.eos_token)
    assert not turn_ends(RolloutConfig(), tokenizer, takes_ids=False, extra={}).notes


def test_stop_texts_follow_those_of_the_method(recorder: Any) -> None:
    body = ask(recorder, api="completions", stop=("END",))
    assert body["stop"] == ["END"]
    url = recorder[1]
    config = Config.model_validate(
        {
            "rollout": {"stop_tokens": ["turn_end", "END", 5]},
            "endpoint": {"url": url, "api": "chat", "model": "m"},
        }
    )
    engine = open_engine(config).fresh()
    assert isinstance(engine, EndpointEngine)
    assert engine.options.stop == ("END",)
    engine.close()
