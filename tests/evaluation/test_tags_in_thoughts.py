"""Models that quote the prompt's tags while they think: nothing ends a turn or is read there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from tests.conftest import Finished
from tests.evaluation.openai_server import serve
from tests.evaluation.reader_server import cut
from tspo_cli.commands.app import app
from tspo_cli.rollout.thoughts import hide_thoughts, split_thoughts
from tspo_cli.runs import read_jsonl_gz

ECHO = (
    "<think>The user wants the final answer inside <answer> and </answer>, searches inside "
    "<search> and </search>. I should search first.</think>\n"
)
WORDS = "<think>Should I write <answer>x</answer>? No, plain words.</think>\n\nSouth Shields"
CALL = '<tool_call>{"name": "search", "arguments": {"query": "Alien film director"}}</tool_call>'
ANSWER = ECHO + "<answer> South Shields </answer> And more."


class Thinker:
    """A server whose model says `says` in turn, the last one again; it cuts at the stop strings
    that it is sent.
    """

    def __init__(self, *says: str) -> None:
        self.says, self.requests = says, list[dict[str, Any]]()

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.post("/v1/chat/completions")
        def chat(body: dict[str, Any]) -> Any:
            is_question = "ready" not in json.dumps(body["messages"])
            self.requests += [body] * is_question
            said = self.says[min(len(self.requests), len(self.says)) - 1]
            message = {"role": "assistant", "content": cut(said, body)}
            return {"choices": [{"message": message, "finish_reason": "stop"}]}

        return api


def evaluate(
    films: Path, out: Path, method: str, *says: str, settings: tuple[str, ...] = ()
) -> tuple[Finished, dict[str, Any], dict[str, Any]]:
    server = Thinker(*says)
    options = ["eval", "hosted", "--data", str(films / "films.jsonl"), "--method", method]
    options += ["--index", str(films / "index"), "--out", str(out), "--json"]
    chosen = ("endpoint.api=chat", "endpoint.retries=0", "rollout.max_searches=2", *settings)
    with serve(server.app()) as url:
        every = [*options, "--endpoint", url, *(word for one in chosen for word in ("--set", one))]
        done = CliRunner().invoke(app, every)
    assert done.exit_code == 0, (done.exception, done.stderr)
    (item,) = read_jsonl_gz(out / "films.items.jsonl.gz")
    finished = Finished(done.exit_code, done.stdout, done.stderr)
    return finished, json.loads(done.stdout)["results"][0], item


def test_a_call_after_a_thought_that_quotes_the_prompt(films: Path, tmp_path: Path) -> None:
    done, scores, item = evaluate(films, tmp_path / "out", "tool_call", ECHO + CALL, ANSWER)
    assert [turn["kind"] for turn in item["trajectory"]["turns"]] == ["search", "answer"]
    assert (scores["em"], scores["invalid_share"]) == (1.0, 0.0)
    assert item["trajectory"]["turns"][1]["text"].endswith("</answer>")
    assert "in a thought" not in done.err


@pytest.mark.parametrize("method", ["direct", "rag", "ircot", "cot"])
@pytest.mark.parametrize("answer", ["auto", "reply"])
def test_a_reply_after_a_thought_with_tags(
    films: Path, tmp_path: Path, method: str, answer: str
) -> None:
    settings = (f"eval.answer={answer}", "rollout.max_searches=1")
    done, scores, item = evaluate(films, tmp_path / "out", method, WORDS, settings=settings)
    assert (item["answer"], item["answer_from"]) == ("South Shields", "reply")
    assert scores["answer_from"] == {"reply": 1}
    assert "no answer" not in done.err


@pytest.mark.parametrize(
    ("settings", "answer", "source"),
    [
        ((), "x", "tags"),
        (("eval.answer=tags",), "x", "tags"),
        (("eval.answer=reply",), "That is x", "reply"),
    ],
)
def test_ircot_says_how_every_answer_was_read(
    films: Path, tmp_path: Path, settings: tuple[str, ...], answer: str, source: str
) -> None:
    """It ends at tags while searches are left; what counts as the answer is read as ever."""
    reply = "<think>An <answer>y</answer>?</think>That is <answer>x</answer>"
    _, scores, item = evaluate(films, tmp_path / "out", "ircot", reply, settings=settings)
    assert (" ".join(item["answer"].split()), item["answer_from"]) == (answer, source)
    assert scores["answer_from"] == {source: 1}


def test_tags_are_not_read_from_thoughts(films: Path, tmp_path: Path) -> None:
    settings = ("eval.answer=tags",)
    _, _, item = evaluate(films, tmp_path / "out", "cot", ANSWER, settings=settings)
    assert (item["answer"], item["answer_from"]) == ("South Shields", "tags")


def test_search_o1_answers_after_its_thoughts(films: Path, tmp_path: Path) -> None:
    query = "<think>I lack a fact. <|begin_search_query|> Alien <|end_search_query|> so"
    done, _, item = evaluate(films, tmp_path / "out", "search_o1", query, "A note.", ANSWER)
    assert [turn["kind"] for turn in item["trajectory"]["turns"]] == ["search", "note", "answer"]
    assert item["em"] == 1.0
    assert "in a thought" not in done.err


def test_an_agent_that_was_stopped_in_a_thought_is_warned_of(films: Path, tmp_path: Path) -> None:
    done, _, item = evaluate(films, tmp_path / "out", "search_r1", ANSWER)
    assert item["answer"] == "and"
    assert "1 of 1 turn ended at a stop string (</search>, </answer>) inside a thought" in done.err
    assert "--set 'endpoint.drop=[\"stop\"]'" in done.err


def test_an_agent_reads_whole_replies_after_their_thoughts(films: Path, tmp_path: Path) -> None:
    settings = ('endpoint.drop=["stop"]',)
    search = ECHO + "<search> Alien film director </search> <information> made up"
    says = [search, ANSWER.replace("and </answer>", "tags").replace("and </search>", "tags")]
    done, _, item = evaluate(films, tmp_path / "out", "search_r1", *says, settings=settings)
    first, second = item["trajectory"]["turns"]
    assert (first["query"], second["answer"]) == ("Alien film director", "South Shields")
    assert first["text"].endswith("</search>")
    assert "in a thought" not in done.err


def test_an_agent_that_never_ends_its_thought_acts_in_it(films: Path, tmp_path: Path) -> None:
    settings = ('endpoint.drop=["stop"]',)
    reply = "<think>I know it. <answer> South Shields </answer> and so on"
    _, _, item = evaluate(films, tmp_path / "out", "search_r1", reply, settings=settings)
    assert item["em"] == 1.0


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(
    "text",
    ["", "a", "<think>b</think>c", "b</think>c", "a<think>b", "a<think>b</think>c<think>d</think>e",
     "a<think>b</think>c</think>d", "</think></think>x<think>", "b<think>c</think>d"],
)  # fmt: skip
def test_hidden_thoughts_keep_their_places(text: str, opened: bool) -> None:
    hidden = hide_thoughts(text, opened=opened)
    assert len(hidden) == len(text)
    assert all(one in (" ", other) for one, other in zip(hidden, text, strict=True))
    assert hidden.split() == split_thoughts(text, opened=opened)[0].split()
