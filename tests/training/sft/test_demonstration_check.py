"""`tspo data check` of demonstrations: counts, lengths against the limits, and bad lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tspo_cli.commands.data import app
from tspo_cli.config.schema import RolloutConfig
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.sft.demonstration_check import check_demonstrations, lengths_in_words

SEARCH = {
    "text": "<think> who </think> <search> who </search>",
    "passages": [{"id": "1", "contents": '"Light"\nlight light light'}],
}
ANSWER = {"text": "<answer> light </answer>"}
GOOD = {"question": "Who?", "turns": [SEARCH, SEARCH, ANSWER]}
DIRECT = {"question": "Who?", "turns": [ANSWER]}


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    path = tmp_path / "demos.jsonl"
    rows = [GOOD, DIRECT, {"question": "Who?", "turns": [SEARCH]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_every_bad_line_is_named_and_the_others_are_counted(demos: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(demos), "--json"])
    report = json.loads(done.stdout)
    assert (report["demonstrations"], report["turns"]) == (2, 4)
    assert report["searches"] == {"0": 1, "2": 1}
    assert [problem.partition(": ")[0] for problem in report["problems"]] == [f"{demos}:3"]
    assert isinstance(done.exception, InvalidInputError)
    plain = CliRunner().invoke(app, ["check", str(demos)])
    assert "the last turn to answer" in plain.stdout
    assert "--model" in plain.stderr


def test_lengths_say_what_exceeds_and_what_happens_to_it(demos: Path) -> None:
    rollout = RolloutConfig(max_new_tokens=5, max_observation_tokens=9)
    protocol = SearchProtocol.from_config(tiny_tokenizer(("who", "light"), ("ba",)), rollout)
    report = check_demonstrations(demos, protocol, rollout)
    turn, observation = report.lengths["turn"], report.lengths["observation"]
    texts = [SEARCH["text"], SEARCH["text"], ANSWER["text"], ANSWER["text"]]
    said = [len(protocol.action_ids(str(text))) for text in texts]
    assert (turn.longest, turn.above) == (max(said), sum(count > 5 for count in said))
    assert (observation.limit, observation.above) == (9, 2)
    lines = lengths_in_words(report.lengths)
    assert "trained whole" in lines[1]
    assert "cut to the limit" in lines[2]


def test_a_model_is_for_demonstrations(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"id": "1", "question": "Who?", "golden_answers": ["A"]}) + "\n")
    done = CliRunner().invoke(app, ["check", str(path), "--model", "x"])
    assert isinstance(done.exception, UsageError)
