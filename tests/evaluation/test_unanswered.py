"""A question that a server never answers, while it answers others: it fails alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import JSONResponse

from tests.conftest import run_tspo
from tests.evaluation.openai_server import serve
from tests.evaluation.test_refusals import Hosted, evaluate, items

BROKEN = [
    JSONResponse({"error": {"message": "worker died"}}, 500),
    {"error": {"code": 502, "message": "bad gateway"}},
    {"error": {"code": "503", "message": "overloaded"}},
    {"choices": [{"error": {"code": 502, "message": "upstream"}, "message": {"content": "a"}}]},
    JSONResponse({"error": "overloaded"}, 503),
]


def scores_of(folder: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((folder / "out" / "places.json").read_text("utf-8"))
    return scores


@pytest.mark.parametrize("response", BROKEN)
@pytest.mark.parametrize("word", ["alpha", "bravo", "carol"])
def test_the_rest_is_scored(tmp_path: Path, response: Any, word: str) -> None:
    with serve(Hosted(**{word: response}).app()) as url:
        done = evaluate(tmp_path, url, count=3)
        assert done.code == 0, done.err
        assert "1 of 3 questions counts as wrong because the server did not answer" in done.err
        assert "--resume asks it again" in done.err
        scores = scores_of(tmp_path)
        assert (scores["failed"], scores["refused"]) == (1, 0)
        assert scores["em"] == pytest.approx(2 / 3)
        assert ["unanswered" in item for item in items(tmp_path)].count(True) == 1
        assert evaluate(tmp_path, url, "--resume", count=3).code == 0
    with serve(Hosted().app()) as url:
        resumed = evaluate(tmp_path, url, "--resume", count=3)
    assert resumed.code == 0, resumed.err
    assert (scores_of(tmp_path)["em"], scores_of(tmp_path)["failed"]) == (1.0, 0)


def test_no_question_answered_is_an_outage(tmp_path: Path) -> None:
    server = Hosted(Where=BROKEN[0])
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url, count=3)
    assert done.code == 5
    assert "did not answer every question" in done.err
    assert "worker died" in done.err
    assert not (tmp_path / "out" / "places.json").exists()


@pytest.mark.parametrize("command", ["report", "inspect", "doctor"])
def test_an_unfinished_evaluation_says_so(tmp_path: Path, command: str) -> None:
    (tmp_path / "places.partial.jsonl").write_text("", encoding="utf-8")
    done = run_tspo(command, tmp_path)
    said = "an unfinished evaluation; go on with the same tspo eval and --resume"
    if command == "doctor":  # which lists what it found
        assert done.code == 1
        assert said in done.out
    else:
        assert done.code in (3, 4)
        assert f"{tmp_path}: " in done.err
        assert said in done.err


def test_a_server_that_is_gone_is_an_outage(tmp_path: Path) -> None:
    server = Hosted(alpha=BROKEN[0], ready=BROKEN[0])
    with serve(server.app()) as url:
        done = evaluate(tmp_path, url, count=3)
    assert done.code == 5
    assert "worker died" in done.err
