"""`tspo eval` on a world and on real questions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.disk import one_writer
from tspo_cli.runs import read_jsonl_gz

pytestmark = pytest.mark.slow
Tspo = Callable[..., Finished]


@pytest.mark.parametrize("method", ["search_r1", "direct", "rag"])
def test_methods_on_a_world(
    playground: Playground, tspo: Tspo, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "out"
    data = playground.world / "test.jsonl"
    done = tspo(
        "eval",
        playground.model,
        "--data",
        data,
        "--index",
        playground.index,
        "--method",
        method,
        "--out",
        out,
        "--json",
    )
    (scores,) = json.loads(done.out)["results"]
    items = list(read_jsonl_gz(out / "world.items.jsonl.gz"))
    assert scores["n"] == len(items) == 20
    assert scores["method"] == method
    assert scores["k"] == 2, "the k that the model was trained with"
    assert scores["em"] == sum(item["em"] for item in items) / 20
    searches = {"search_r1": scores["searches"], "direct": 0, "rag": 1}[method]
    assert scores["searches"] == searches
    if method == "rag":
        assert scores["gold_recall"] == scores["question_gold_recall"]
        assert all(item["trajectory"]["turns"][0]["query"] == item["question"] for item in items)
    if method != "search_r1":
        assert all(item["trajectory"]["turns"][-1]["text"].startswith("<answer>") for item in items)


def pop_logprobs(item: dict[str, Any]) -> float:
    """Take the log-probabilities out of an item; their sum."""
    return sum(turn.pop("logprob") for turn in item["trajectory"]["turns"])


def test_the_same_scores_over_http(playground: Playground, tspo: Tspo, tmp_path: Path) -> None:
    """Server and in-process search give the same items, and greedy evaluation repeats itself."""
    data = ["--data", playground.world / "test.jsonl", "--set", "eval.temperature=1.0"]
    tspo("eval", playground.model, *data, "--index", playground.index, "--out", tmp_path / "a")
    server = subprocess.Popen(
        [sys.executable, "-m", "tspo_cli", "serve", str(playground.index), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            text += server.stdout.readline()
        tspo(
            "eval",
            playground.model,
            *data,
            "--retriever",
            json.loads(text)["url"],
            "--out",
            tmp_path / "b",
        )
    finally:
        server.terminate()
        server.wait(timeout=30)
    first, second = (list(read_jsonl_gz(tmp_path / name / "world.items.jsonl.gz")) for name in "ab")
    assert len(first) == 20
    # When passages arrive decides which rows share a decoding step, so the last bits of a sum may
    # differ.
    assert [pop_logprobs(item) for item in first] == pytest.approx(
        [pop_logprobs(item) for item in second], abs=1e-3
    )
    assert first == second


@pytest.mark.parametrize(
    ("method", "tokens", "warned"),
    [("search_r1", 12, True), ("search_r1", 900, False), ("rag", 12, True), ("direct", 12, False)],
)
def test_limits_that_hold_no_passages_are_warned_of_at_the_start(
    playground: Playground, tspo: Tspo, tmp_path: Path, method: str, tokens: int, warned: bool
) -> None:
    words = ["eval", playground.model, "--data", playground.world / "test.jsonl", "--limit", 1]
    words += ["--method", method, "--set", f"rollout.max_observation_tokens={tokens}"]
    words += ["--set", "rollout.max_prompt_tokens=200"]
    text = f"{tokens} tokens do not hold the 2 passages of a search"
    here = tspo(*words, "--index", playground.index, "--out", tmp_path / "here")
    assert (text in here.err) == warned


@pytest.mark.parametrize(("method", "warned"), [("search_r1", True), ("direct", False)])
def test_a_context_beyond_the_models_is_warned_of_where_the_method_can_fill_it(
    playground: Playground, tspo: Tspo, tmp_path: Path, method: str, warned: bool
) -> None:
    positions = json.loads((playground.model / "config.json").read_text())[
        "max_position_embeddings"
    ]
    done = tspo(
        "eval", playground.model, "--data", playground.world / "test.jsonl", "--limit", 1,
        "--index", playground.index, "--method", method, "--out", tmp_path / "out",
        "--set", "model.max_context=0", "--set", "rollout.max_prompt_tokens=64",
        "--set", f"rollout.max_observation_tokens={positions}",
    )  # fmt: skip
    assert (f"but the model was made for {positions:,}" in done.err) == warned


def test_several_sets_after_one_option(playground: Playground, tspo: Tspo, tmp_path: Path) -> None:
    files = [playground.world / "test.jsonl", playground.world / "train.jsonl"]
    done = tspo(
        "eval",
        playground.model,
        "--data",
        *files,
        "--index",
        playground.index,
        "--limit",
        3,
        "--out",
        tmp_path / "o",
        "--json",
    )
    assert [row["n"] for row in json.loads(done.out)["results"]] == [3, 3]


def test_an_evaluation_is_not_overwritten(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    arguments = ["eval", playground.model, "--data", playground.world / "test.jsonl", "--limit", 2,
                 "--method", "direct", "--out", tmp_path / "o"]  # fmt: skip
    tspo(*arguments)
    before = (tmp_path / "o" / "eval.json").read_bytes()
    again = run_tspo(*arguments)
    assert again.code == 3
    assert "--overwrite" in again.err
    assert (tmp_path / "o" / "eval.json").read_bytes() == before
    with one_writer(tmp_path / "o", "evaluating into it"):
        second = run_tspo(*arguments, "--overwrite")
    assert second.code == 3
    assert "another process is evaluating into it" in second.err
    assert (tmp_path / "o" / "eval.json").read_bytes() == before
    tspo(*arguments, "--overwrite")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        ".lock",
        "digests.jsonl",
        "eval.json",
        "timings.json",
        "world.items.jsonl.gz",
        "world.json",
    ]


def test_real_questions_run_through(
    real_data: Path, playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    """The tiny policy cannot read English, but the path must hold and report the reference
    recall.
    """
    source = real_data / "hotpotqa"
    index = tmp_path / "index"
    tspo("index", "build", source / "corpus.jsonl.gz", "--out", index)
    arguments = [
        "--data",
        source / "questions.jsonl.gz",
        "--index",
        index,
        "--set",
        "retriever.k=3",
        "--set",
        "credit.match=norm_token_boundary",  # the match of the reference
        "--json",
    ]
    rag = ["--method", "rag", "--set", "rollout.max_new_tokens=2"]
    done = tspo("eval", playground.model, *arguments, *rag, "--out", tmp_path / "rag")
    (scores,) = json.loads(done.out)["results"]
    assert scores["n"] == 630
    assert 100 * scores["gold_recall"] == pytest.approx(65.1, abs=0.3)
    assert 100 * scores["answer_in_retrieved"] == pytest.approx(58.4, abs=0.3)
    done = tspo("eval", playground.model, *arguments, "--limit", 8, "--out", tmp_path / "agent")
    assert json.loads(done.out)["results"][0]["question_gold_recall"] is not None


def test_training_on_real_questions(
    real_data: Path, playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    source = real_data / "bamboogle"
    index = tmp_path / "index"
    tspo("index", "build", source / "corpus.jsonl.gz", "--out", index)
    files = json.dumps([str(source / "questions.jsonl.gz")])
    options = playground.settings(
        data__train=files, eval__data=files, eval__limit=3, retriever__index=index, train__steps=2,
        rollout__max_prompt_tokens=400, rollout__max_observation_tokens=200,
    )  # fmt: skip
    done = tspo("train", "tiny/tspo", "--out", tmp_path / "run", *options, "--json")
    assert json.loads(done.out)["state"] == "finished"
