"""An evaluation that is killed goes on and ends with the same bytes; gates, samples and signatures
of `tspo eval`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests.conftest import Finished, Playground, StartedTspo, run_tspo
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.resuming.journal import Journal
from tspo_cli.evaluation.sets import draw
from tspo_cli.runs import read_jsonl_gz

Tspo = Callable[..., Finished]
FILES = ("world.json", "world.items.jsonl.gz", "eval.json")


@pytest.mark.slow
def test_killed_evaluations_end_with_the_same_bytes(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    """Sampled tokens and log-probabilities included, which depend on what else is in a batch."""
    options = [
        "eval",
        playground.model,
        "--data",
        playground.world / "train.jsonl",
        "--index",
        playground.index,
        "--set",
        "eval.batch_size=6",
        "--set",
        "eval.portion=6",
        "--set",
        "eval.temperature=1.0",
        "--set",
        "rollout.max_new_tokens=48",
        "--out",
        "o",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    tspo(*options, cwd=whole)
    partial = killed / "o" / "world.partial.jsonl"
    kept = 0
    for enough in (8, 27):
        more = ["--resume"] if kept else []
        process = StartedTspo(*options, *more, cwd=killed)
        while process.poll() is None and kept < enough:
            time.sleep(0.002)
            kept = partial.read_bytes().count(b"\n") - 1 if partial.exists() else kept
        process.kill()
        process.wait()
    assert 8 <= kept < 60, "killed while it was at work"
    refused = run_tspo(*options, cwd=killed)
    assert refused.code == 3
    assert "--resume" in refused.err
    other = run_tspo(*options, "--resume", "--set", "rollout.max_new_tokens=8", cwd=killed)
    assert other.code == 3
    assert "other settings" in other.err
    done = tspo(*options, "--resume", cwd=killed)
    assert "world search_r1" in done.err
    assert not partial.exists()
    for name in FILES:
        assert (killed / "o" / name).read_bytes() == (whole / "o" / name).read_bytes(), name
    again = tspo(*options, "--resume", cwd=killed)
    assert "already evaluated" in again.err
    assert (killed / "o" / "world.json").read_bytes() == (whole / "o" / "world.json").read_bytes()


def test_a_journal_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "x.partial.jsonl"
    form = TypeAdapter(dict[str, float])
    journal = Journal[dict[str, float]](path, "a|b", form)
    journal.add("q/1", {"em": 1.0}, 0.5)
    journal.add("q/2", {"em": 0.0}, 0.25)
    with open(path, "a", encoding="utf-8") as handle:
        handle.write('{"key": "q/3", "rec')
    again = Journal[dict[str, float]](path, "a|b", form)
    assert again.done == {"q/1": ({"em": 1.0}, 0.5), "q/2": ({"em": 0.0}, 0.25)}
    again.add("q/3", {"em": 1.0}, 0.1)
    assert list(Journal(path, "a|b", form).done) == ["q/1", "q/2", "q/3"]
    with pytest.raises(InvalidInputError, match="other settings"):
        Journal(path, "a|c", form)


@pytest.mark.slow
def test_no_data_set_is_lost_from_the_summary(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    files = [playground.world / "test.jsonl", playground.world / "train.jsonl"]
    words = ["eval", playground.model, "--index", playground.index, "--limit", 2]
    words += ["--method", "rag", "--out", tmp_path / "evals"]
    tspo(*words, "--data", *files)
    (tmp_path / "evals" / "world.partial.jsonl").touch()  # of a process that was killed
    before = {path: path.read_bytes() for path in (tmp_path / "evals").glob("*.json*")}
    done = run_tspo(*words, "--data", files[0], "--resume")
    assert done.code == 3, done.err
    assert "eval.json: has world_train too, which it would lose; name all of its" in done.err
    assert {path: path.read_bytes() for path in before} == before
    tspo(*words, "--data", *files, "--resume")
    assert not [*tmp_path.glob("evals/*.partial.jsonl")]
    tspo(*words, "--data", files[0], "--overwrite")
    assert not [*tmp_path.glob("evals/world_train*")]


def test_samples_are_nested_and_keep_the_order() -> None:
    questions = [Question(str(i), "?", ("x",), "d") for i in range(50)]
    small, large = draw(questions, 10, seed=3), draw(questions, 20, seed=3)
    assert len(small) == 10
    assert {question.id for question in small} < {question.id for question in large}
    assert [int(question.id) for question in large] == sorted(
        int(question.id) for question in large
    )
    assert draw(questions, 10, seed=4) != small
    assert draw(questions[::-1], 10, seed=3) == small[::-1], (
        "luck does not depend on the place in the file"
    )
    assert draw(questions, 99, seed=0) == questions


@pytest.mark.slow
def test_gates_samples_and_averages(playground: Playground, tspo: Tspo, tmp_path: Path) -> None:
    files = [playground.world / "test.jsonl", playground.world / "train.jsonl"]
    options = [
        "eval",
        playground.model,
        "--data",
        *files,
        "--index",
        playground.index,
        "--sample",
        5,
        "--seed",
        1,
    ]
    done = run_tspo(*options, "--out", tmp_path / "a", "--fail-under", "1.1", "--json")
    assert done.code == 6, done.err
    assert "world: em is" in done.err
    shown = json.loads(done.out)
    first, second = shown["results"]
    assert [first["n"], second["n"]] == [5, 5]
    assert shown["average"]["macro"]["em"] == pytest.approx((first["em"] + second["em"]) / 2)
    assert shown["average"]["macro"]["em_low"] <= shown["average"]["macro"]["em"]
    assert first["em_low"] <= first["em"] <= first["em_high"]
    assert first["signature"].startswith("tspo:")
    assert set(first["digests"]) == {"config", "model", "engine", "index", "corpus", "data"}
    assert first["digests"]["data"] != second["digests"]["data"]
    assert first["ceiling"]["answer_in_corpus"] == 1
    timings = json.loads((tmp_path / "a" / "timings.json").read_text("utf-8"))
    assert timings["world"]["p95"] >= timings["world"]["p50"] > 0
    assert "seconds" not in (tmp_path / "a" / "world.json").read_text("utf-8")
    passed = tspo(
        *options, "--out", tmp_path / "b", "--fail-under", "em=0", "--fail-under", "sub_em=0"
    )
    assert "mean of sets" in passed.out
    assert "ceiling" in passed.out
    same = (tmp_path / name / "world.items.jsonl.gz" for name in "ab")
    assert list(read_jsonl_gz(next(same))) == list(read_jsonl_gz(next(same)))
    assert run_tspo(*options, "--fail-under", "em=much").code == 2
