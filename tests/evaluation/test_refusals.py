"""Requests that a server refuses, replies that say nothing, and fields that servers do not take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from typer.testing import CliRunner

from tests.conftest import Finished
from tests.evaluation.openai_server import serve
from tspo_cli.commands.app import app
from tspo_cli.errors import RemoteServiceError, TspoError
from tspo_cli.rollout.engines.endpoint.chat_reply import read_reply
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient
from tspo_cli.runs import read_jsonl_gz

TOO_LONG = "This model's maximum context length is 512 tokens, your prompt has 700."
FILTER = "The response was filtered due to the prompt triggering content management policy."


class Hosted:
    """A chat server that answers every question with South Shields, and refuses those whose prompt
    contains a word of `refuses`.
    """

    def __init__(self, **refuses: Response | dict[str, Any]) -> None:
        self.refuses, self.requests = dict(refuses), list[dict[str, Any]]()

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.post("/v1/chat/completions")
        def chat(body: dict[str, Any]) -> Any:
            self.requests.append(body)
            prompt = json.dumps(body["messages"])
            for word, response in self.refuses.items():
                if word in prompt:
                    return response
            message = {"role": "assistant", "content": self.said(prompt)}
            return {"choices": [{"message": message, "finish_reason": "stop"}]}

        return api

    def said(self, prompt: str) -> str:
        return "<answer> South Shields </answer>"


def refusal(message: str, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "invalid_request"}}, status)


def questions(folder: Path, count: int) -> Path:
    words = ["alpha", "bravo", "carol", "delta", "echos", "fox"]
    lines = [
        json.dumps({"id": str(number), "golden_answers": ["South Shields"],
                    "question": f"Where is {words[number % 6]}{number}?"})
        for number in range(count)
    ]  # fmt: skip
    (folder / "places.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "places.jsonl"


def evaluate(folder: Path, url: str, *more: str, count: int = 10, out: str = "out") -> Finished:
    """The command in this process; its error as `tspo` prints it."""
    done = CliRunner().invoke(
        app,
        ["eval", "hosted", "--data", str(questions(folder, count)), "--method", "direct",
         "--endpoint", url, "--set", "endpoint.api=chat", "--set", "endpoint.retries=0",
         "--set", "endpoint.concurrency=1", "--out", str(folder / out), *more],
    )  # fmt: skip
    if isinstance(done.exception, TspoError):
        return Finished(
            done.exception.exit_code, done.stdout, f"{done.stderr}error: {done.exception}"
        )
    return Finished(done.exit_code, done.stdout, done.stderr)


def items(folder: Path, out: str = "out") -> list[dict[str, Any]]:
    return list(read_jsonl_gz(folder / out / "places.items.jsonl.gz"))


@pytest.mark.parametrize("words", [["--limit", "3"], ["--set", "eval.limit=3"]])
def test_the_first_questions_are_asked_alone(tmp_path: Path, words: list[str]) -> None:
    """The key was without effect and without a word."""
    with serve(Hosted().app()) as url:
        assert evaluate(tmp_path, url, *words).code == 0
    assert [item["id"] for item in items(tmp_path)] == ["0", "1", "2"]


@pytest.mark.parametrize("rest", ["", "hosted/places.partial.jsonl", "hosted/notes.txt"])
def test_a_hosted_model_may_be_called_as_its_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    """The folder of the evaluation was taken for the model: it had no tokenizer."""
    monkeypatch.chdir(tmp_path)
    if rest:
        (tmp_path / "hosted").mkdir()
        (tmp_path / rest).touch()
    out = "out" if rest.endswith(".txt") else "hosted"
    with serve(Hosted().app()) as url:
        for options in (["--resume"] if "partial" in rest else [], ["--resume"]):
            done = evaluate(tmp_path, url, "--json", *options, out=out)
            assert done.code == 0, done.err
            assert json.loads(done.out)["results"][0]["em"] == 1.0


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (refusal(TOO_LONG), "status 400: This model's maximum context length"),
        (refusal(FILTER), "filtered"),
        (JSONResponse({"error": "Input validation: too many"}, 422), "status 422: Input"),
        (JSONResponse({"detail": "body too large"}, 413), "status 413"),
        (JSONResponse({"error": {"message": "flagged", "code": 400}}), "status 400: flagged"),
        ({"choices": []}, 'expected "choices"'),
        ({"choices": None, "usage": {}}, 'expected "choices"'),
        ({"choices": [{"message": {}, "finish_reason": "content_filter"}]}, "content_filter"),
        ({"choices": [{"message": {"content": None, "refusal": "I can't."}}]}, "model refused"),
        ({"choices": [{"message": {"content": {"a": 1}}, "finish_reason": "stop"}]}, "text, got"),
    ],
)  # fmt: skip
def test_one_refused_question_costs_one_question(
    tmp_path: Path, response: Response | dict[str, Any], reason: str
) -> None:
    server = Hosted(carol=response)
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url, "--json")
        assert done.code == 0, done.err
        (scores,) = json.loads(done.out)["results"]
        assert (scores["n"], scores["refused"], scores["em"]) == (10, 2, 0.8)
        assert "refused 2 of 10 questions" in done.err
        for item in items(tmp_path):
            assert ("refused" in item) == ("carol" in item["question"])
        refused = items(tmp_path)[2]
        assert reason in refused["refused"] == refused["trajectory"]["refused"]
        assert (refused["answer"], refused["em"], refused["turns"]) == (None, 0, 0)

        table = evaluate(tmp_path, url, "--resume")
        assert table.code == 0
        assert "refused" in table.out
        assert len(server.requests) == 10, "what was refused stays refused"

        server.refuses.clear()
        again = evaluate(tmp_path, url, "--resume", "--retry-refused", "--json")
        assert again.code == 0, again.err
        assert json.loads(again.out)["results"][0]["em"] == 1
        assert json.loads(again.out)["results"][0]["refused"] == 0
        assert len(server.requests) == 12, "only the refused questions are asked again"
        assert not list((tmp_path / "out").glob("*.partial.jsonl"))


def test_a_judge_is_asked_again_about_answers_without_a_verdict(tmp_path: Path) -> None:
    """Of a finished evaluation, and of one that was interrupted while the judge was asked."""
    unclear: dict[str, Any] = {"carol": refusal(TOO_LONG), "echos": {"choices": []}}
    failing = {"fox": JSONResponse({"error": "gone"}, 429)}

    class Judge(Hosted):
        def said(self, prompt: str) -> str:
            return "incorrect" if "London" in prompt else "correct"

    server, judge = Hosted(), Judge(**unclear)
    with serve(server.app()) as url, serve(judge.app()) as judge_url:
        judged = ["--set", f"judge.url={judge_url}", "--set", "judge.model=m"]
        judged += ["--set", "judge.retries=0", "--set", "judge.concurrency=1"]
        done = evaluate(tmp_path, url, *judged, "--json")
        (scores,) = json.loads(done.out)["results"]
        assert (scores["judge"], scores["judge_unclear"]) == (0.7, 3)
        assert "--resume --retry-refused asks it again" in done.err
        judge.requests.clear()
        assert evaluate(tmp_path, url, *judged, "--resume").code == 0
        assert len(judge.requests) == 2, "the check before alone"
        del judge.refuses["echos"]
        judge.requests.clear()
        done = evaluate(tmp_path, url, *judged, "--resume", "--retry-refused", "--json")
        (scores,) = json.loads(done.out)["results"]
        assert (scores["judge"], scores["judge_unclear"]) == (0.8, 2)
        assert len(judge.requests) == 2 + 3, "only answers without a verdict are judged again"
        assert len(server.requests) == 10, "no question is answered again"
        assert [item["judge"] for item in items(tmp_path)] == [1, 1, None, 1, 1, 1, 1, 1, None, 1]

        judge.refuses |= failing
        assert evaluate(tmp_path, url, *judged, out="cut").code == 5
        judge.refuses.clear()
        done = evaluate(tmp_path, url, *judged, "--resume", "--retry-refused", "--json", out="cut")
        (scores,) = json.loads(done.out)["results"]
        assert (scores["judge"], scores["judge_unclear"]) == (1, 0)
        evaluate(tmp_path, url, *judged, out="whole")
    for name in ("places.json", "places.items.jsonl.gz"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "cut" / name).read_bytes() == whole


def test_refused_items_of_an_interrupted_evaluation(tmp_path: Path) -> None:
    """The server fails after four questions, of which it refused one."""
    server = Hosted(carol=refusal(TOO_LONG), echos=JSONResponse({"error": "gone"}, 429))
    with serve(server.app()) as url:
        assert evaluate(tmp_path, url).code == 5
        del server.refuses["echos"]
        server.requests.clear()
        done = evaluate(tmp_path, url, "--resume", "--json")
        assert json.loads(done.out)["results"][0]["refused"] == 2
        asked = json.dumps(server.requests)
        assert "carol2" not in asked
        assert "carol8" in asked
        evaluate(tmp_path, url, out="whole")
        for name in ("places.json", "places.items.jsonl.gz"):
            whole = (tmp_path / "whole" / name).read_bytes()
            assert (tmp_path / "out" / name).read_bytes() == whole
        usage = evaluate(tmp_path, url, "--retry-refused", "--overwrite")
        assert usage.code == 2


@pytest.mark.parametrize("count", [4, 40])
def test_a_server_that_refuses_everything_ends_the_evaluation(tmp_path: Path, count: int) -> None:
    server = Hosted(Where=refusal("Unsupported parameter: 'max_tokens' is not supported with this "
                                  "model. Use 'max_completion_tokens' instead."))  # fmt: skip
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url, count=count)
        assert done.code == 5, done.err
        assert "endpoint.rename.max_tokens=max_completion_tokens" in done.err
        assert "Unsupported parameter" in done.err
        assert done.err.count("error: ") == 1
        assert not (tmp_path / "out" / "places.json").exists()

        server.refuses.clear()
        mended = ["--resume", "--json", "--set", "endpoint.rename.max_tokens=max_completion_tokens",
                  "--set", 'endpoint.drop=["seed", "top_p"]']  # fmt: skip
        done = evaluate(tmp_path, url, *mended, count=count)
        assert done.code == 0, done.err
        assert json.loads(done.out)["results"][0]["em"] == 1
    body = server.requests[-1]
    assert set(body) == {"model", "messages", "max_completion_tokens", "temperature", "stop"}


def test_ten_refused_after_an_answer_are_ten_refused(tmp_path: Path) -> None:
    words = ("bravo", "carol", "delta", "echos", "fox", "alpha6", "alpha12", "alpha18")
    server = Hosted(**{word: refusal(FILTER) for word in words})
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url, "--json", count=19)
    assert json.loads(done.out)["results"][0]["refused"] == 18


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429])
def test_other_statuses_end_the_evaluation(tmp_path: Path, status: int) -> None:
    server = Hosted(delta=JSONResponse({"error": {"message": "sorry"}}, status))
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url)
        assert done.code == 5
        assert f"status {status}: sorry" in done.err
        server.refuses.clear()
        assert evaluate(tmp_path, url, "--resume").code == 0
    assert all("refused" not in item for item in items(tmp_path))


def test_a_page_in_place_of_json_is_one_line(tmp_path: Path) -> None:
    server = Hosted(delta=HTMLResponse("<html>\n<body>Log in\nfirst</body></html>"))
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url)
    assert done.code == 5
    (line,) = [line for line in done.err.splitlines() if "error: " in line]
    assert "expected a JSON object, got '<html> <body>Log in first" in line


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("Unrecognized request argument supplied: top_k", "drop=[\"top_k\"]"),
        ("'stop' is not supported with this model", "drop=[\"stop\"]"),
        ("property 'seed' is unsupported", "drop=[\"seed\"]"),
        ("top_p: Extra inputs are not permitted", "drop=[\"top_p\"]"),
        ("`temperature` may not be set: only the default (1) is supported. Invalid value",
         "drop=[\"temperature\"]"),
        ("Unknown field max_tokens", "drop=[\"max_tokens\"]"),
        ("`temperature` and `top_p` cannot both be specified. Please use only one.",
         "drop=[\"top_p\"]"),
        ("Input validation error: `top_p` must be > 0.0 and < 1.0", "drop=[\"top_p\"]"),
        ("Input validation error: `temperature` must be strictly positive",
         "drop=[\"temperature\"]"),
        ("seed should be less than or equal to 65535", "drop=[\"seed\"]"),
        ("Unknown argument top_k. Known: max_tokens, temperature, top_p", "drop=[\"top_k\"]"),
        ("max_tokens must be at most 256", ""),
        (TOO_LONG, ""),
        ("Unknown model 'unstoppable'", ""),
    ],
)  # fmt: skip
def test_a_refused_field_is_named_with_its_setting(tmp_path: Path, message: str, hint: str) -> None:
    server = Hosted(Where=refusal(message))
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url, "--set", "rollout.top_k=5", count=1)
    assert done.code == 5
    assert message in done.err
    assert (f"endpoint.{hint}" in done.err) if hint else ("--set" not in done.err)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "Par"}, {"type": "text", "text": "is"}]}, "Paris"),
        ({"content": ["Par", "is"]}, "Paris"),
        ({"content": [{"type": "reasoning", "summary": []}, {"text": "Paris"}]}, "Paris"),
        ({"content": None, "reasoning_content": "I think of Paris"}, ""),
        ({"content": "Paris", "reasoning": "It is France."}, "Paris"),
        ({}, ""),
        ({"content": None, "function_call": {"name": "search", "arguments": '{"query": "x"}'}},
         '<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>'),
        ({"content": "a", "tool_calls": "nonsense"}, "a"),
    ],
)  # fmt: skip
def test_forms_of_a_message(message: dict[str, Any], text: str) -> None:
    reply = read_reply({"choices": [{"message": message, "finish_reason": "stop"}]}, "chat", 99)
    assert (reply.text, reply.refused) == (text, "")
    assert reply.thought == (message.get("reasoning_content") or message.get("reasoning") or "")


@pytest.mark.parametrize(
    ("field", "thought", "finish"),
    [
        ("reasoning_content", "They want <answer> South Shields </answer>", "length"),
        ("reasoning", "South Shields", "length"),
        ("reasoning_content", "So the answer is: South Shields", "stop"),
        ("reasoning", '{"name": "search", "arguments": {"query": "x"}}', "length"),
    ],
)
def test_reasoning_is_no_answer(tmp_path: Path, field: str, thought: str, finish: str) -> None:
    """The budget ran out within the thought: no answer, and the record and a warning say why."""
    message = {"role": "assistant", "content": None, field: thought}
    server = Hosted(carol={"choices": [{"message": message, "finish_reason": finish}]})
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url, "--json")
    assert done.code == 0, done.err
    (scores,) = json.loads(done.out)["results"]
    assert (scores["em"], scores["refused"], scores["no_answer_share"]) == (0.8, 0, 0.2)
    assert "2 of 10 questions have no answer because the server returned reasoning" in done.err
    assert "rollout.max_new_tokens" in done.err
    for item in items(tmp_path):
        assert item.get("no_answer") == ("thought" if "carol" in item["question"] else None)
    silent = items(tmp_path)[2]
    assert silent["answer"] is None
    assert silent["trajectory"]["turns"][0]["thought"] == thought


@pytest.mark.parametrize(
    ("header", "status", "slept"),
    [("7", 429, 7.0), ("2.5", 503, 2.5), ("never", 429, 0.0), ("-4", 429, 0.0), ("inf", 429, 0.0)],
)
def test_retry_after_is_waited_for_in_full(
    monkeypatch: pytest.MonkeyPatch, header: str, status: int, slept: float
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    busy = JSONResponse({"error": "busy"}, status, headers={"Retry-After": header})
    _post_once(Hosted(x=busy), "status")
    (wait,) = [wait for wait in waits if wait >= 0.2]
    assert wait == slept if slept else 0.25 <= wait <= 0.5


def test_a_wait_for_hours_ends_at_once() -> None:
    busy = JSONResponse({"error": "quota"}, 429, headers={"Retry-After": "7200"})
    server = Hosted(x=busy)
    _post_once(server, r"quota \(it asks to wait 7200 s\)")
    assert len(server.requests) == 1


def _post_once(server: Hosted, message: str) -> None:
    with serve(server.app()) as url, pytest.raises(RemoteServiceError, match=message):
        EndpointClient(url, retries=1).post("/chat/completions", {"messages": ["x"]})
