"""A server may answer as another model than was asked for, and change it: both are said once and
recorded, for models and judges.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.evaluation.openai_server import serve
from tests.evaluation.test_refusals import evaluate, items
from tspo_cli.config.schema import Config, CreditConfig, JudgeConfig
from tspo_cli.evaluation.judging.judge import open_judge
from tspo_cli.evaluation.judging.training_judge import (
    TrainingJudge,
    check_training_judge,
    open_training_judge,
)

OTHER, CHANGED = "the endpoint answers as", "now answers as"


class Named:
    """A chat server that says right answers, and of request n the fields `facts(n)`."""

    def __init__(
        self,
        facts: Callable[[int], dict[str, Any]],
        text: str | Callable[[dict[str, Any]], str] = "Paris",
    ) -> None:
        self.facts, self.text, self.count = facts, text, 0

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.post("/v1/chat/completions")
        def chat(body: dict[str, Any]) -> Any:
            facts = self.facts(self.count)
            self.count += 1
            text = self.text if isinstance(self.text, str) else self.text(body)
            message = {"role": "assistant", "content": text}
            return {"choices": [{"message": message, "finish_reason": "stop"}], **facts}

        return api


@pytest.mark.parametrize(
    ("names", "counts", "others", "changes"),
    [
        (["hosted"] * 10, None, 0, 0),
        ([None, "", 5, ["hosted"], {}] * 2, None, 0, 0),
        (["hosted-2026-01-01"] * 10, {"hosted-2026-01-01": 10}, 1, 0),
        (["hosted"] * 6 + ["tiny"] * 4, {"hosted": 6, "tiny": 4}, 1, 0),
        (["a"] * 6 + ["b"] * 4, {"a": 6, "b": 4}, 1, 1),
        (["a", "b"] * 5, {"a": 5, "b": 5}, 1, 1),
    ],
)
def test_another_model_is_told_once_and_recorded(
    tmp_path: Path, names: list[Any], counts: dict[str, int] | None, others: int, changes: int
) -> None:
    with serve(Named(lambda number: {"model": names[number]}).app()) as url:
        done = evaluate(tmp_path, url, "--json")
    assert done.code == 0, done.err
    (scores,) = json.loads(done.out)["results"]
    assert scores.get("served_models") == counts
    assert (done.err.count(OTHER), done.err.count(CHANGED)) == (others, changes)
    assert ("as several models" in done.err) == (len(counts or ()) > 1)
    told = [turn.get("served_as") for one in items(tmp_path) for turn in one["trajectory"]["turns"]]
    assert [name or "hosted" for name in told if name or counts] == (names if counts else [])


def test_a_model_that_changes_between_two_attempts_is_seen(tmp_path: Path) -> None:
    """The first attempt ends by an outage; the records of both are counted."""
    server = Named(lambda number: {"model": "a"} if number < 4 else {"choices": 5, "model": "a"})
    with serve(server.app()) as url:
        first = evaluate(tmp_path, url, "--json")
        assert first.code == 0
        assert json.loads(first.out)["results"][0]["refused"] == 6
        server.facts = lambda number: {"model": "hosted"}
        done = evaluate(tmp_path, url, "--resume", "--retry-refused", "--json")
    (scores,) = json.loads(done.out)["results"]
    assert scores["served_models"] == {"a": 4, "hosted": 6}
    assert "as several models (turns: a 4, hosted 6)" in done.err


def test_a_name_is_one_short_line(tmp_path: Path) -> None:
    with serve(Named(lambda number: {"model": "x\n\x1b[31m" + "y" * 10**5}).app()) as url:
        done = evaluate(tmp_path, url, "--json")
    assert done.code == 0
    (name,) = json.loads(done.out)["results"][0]["served_models"]
    assert len(name) <= 200
    assert name.isprintable()
    assert "\x1b" not in done.err


def test_what_else_a_response_says_does_not_matter(tmp_path: Path) -> None:
    """Usage that lies, log-probabilities that are null, several choices, no reason to finish."""
    message = {"role": "assistant", "content": "South Shields"}
    facts = [
        {"usage": {"prompt_tokens": -5, "completion_tokens": 10**30}, "created": "never"},
        {"usage": None, "id": None, "object": 7},
        {"choices": [{"message": message, "logprobs": None}]},
        {"choices": [{"message": message, "finish_reason": None, "logprobs": {"content": [1]}}]},
        {"choices": [{"index": 5, "message": message}, {"message": {"content": "Rome"}}]},
    ]
    server = Named(lambda number: facts[number % 5], "South Shields")
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url, "--json", "--answer", "reply")
    assert done.code == 0, done.err
    (scores,) = json.loads(done.out)["results"]
    assert (scores["em"], scores["refused"]) == (1, 0)
    assert {item["response_tokens"] for item in items(tmp_path)} == {3}


@pytest.mark.parametrize("kind", ["evaluation", "training"])
def test_a_judge_that_is_another_model_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    with serve(Named(lambda number: {"model": "tiny"}, "correct").app()) as url:
        judge = open_judge(JudgeConfig(url=url, model="large"))
        assert judge is not None
        if kind == "training":
            TrainingJudge(judge, tmp_path, 0).opinions([("q", ("a",), "a"), ("q", ("b",), "b")])
            kept = (tmp_path / "replies_0.jsonl").read_text("utf-8")
            assert kept.count('"served_as": "tiny"') == 2
        else:
            item: Any = {"key": "1", "question": "q", "golden_answers": ["a"], "answer": "a"}
            for label in ("one", "two"):
                _, scores = judge.judge([item], tmp_path / "judge.partial.jsonl", label)
                assert scores["judge_served_models"] == ["tiny"]
    assert capsys.readouterr().err.count("the judge answers as 'tiny', asked for 'large'") == 1


def test_the_judge_of_an_evaluation_is_told_once(tmp_path: Path) -> None:
    def says(body: dict[str, Any]) -> str:
        prompt = body["messages"][0]["content"]
        return "incorrect" if "London" in prompt else "correct"

    with serve(Named(lambda number: {"model": "tiny"}, says).app()) as url:
        judge = ("--set", f"judge.url={url}", "--set", "judge.model=large")
        done = evaluate(tmp_path, url, *judge)
        again = evaluate(tmp_path, url, *judge, "--overwrite")
    assert done.code == again.code == 0, done.err
    assert [err.count("the judge answers as 'tiny'") for err in (done.err, again.err)] == [1, 1]


@pytest.mark.parametrize("later", ["tiny", "other"])
def test_the_judge_of_a_training_is_told_once_by_all_its_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], later: str
) -> None:
    names = ["tiny", "tiny"]

    def says(body: dict[str, Any]) -> str:
        return "incorrect" if "London" in body["messages"][0]["content"] else "correct"

    server = Named(lambda number: {"model": names[number] if number < 2 else later}, says)
    with serve(server.app()) as url:
        config = Config(
            judge=JudgeConfig(url=url, model="large"), credit=CreditConfig(outcome="judge")
        )
        check_training_judge(config)
        for process in (1, 0):
            judge = open_training_judge(config, tmp_path, process)
            assert judge is not None
            judge.opinions([(f"q{process}", ("a",), "a")])
    said = capsys.readouterr().err
    assert said.count("the judge answers as 'tiny', asked for 'large'") == 1
    assert said.count("now answers as 'other'") == (later == "other")
    assert said.count("warning") == 1 + (later == "other")
