"""Several processes answer an evaluation: the same bytes, and a dead one ends it and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.evaluation.answering import workers
from tspo_cli.evaluation.answering.worker_messages import Job, portion_line, portion_of
from tspo_cli.evaluation.answering.workers import open_workers
from tspo_cli.evaluation.methods.examples import Example
from tspo_cli.runs import read_jsonl_gz

Tspo = Callable[..., Finished]


def questions(*texts: str) -> list[Question]:
    return [Question(f"q{n}", text, ("x",), "d") for n, text in enumerate(texts)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORKER", "tests.evaluation.fake_worker")


def answered(portions: list[list[Question]], count: int) -> tuple[list[Any], list[int], list[Any]]:
    items: list[Any] = []
    after: list[int] = []
    with open_workers(Job(load_config([], []), "direct"), count) as group:
        group.answer(
            portions, lambda item, seconds: items.append(item), lambda p: after.append(len(p))
        )
        processes = list(group.processes)
    return items, after, processes


def test_far_more_workers_than_cores_are_refused(
    fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """99 of them on two cores open 99 engines, each with the model in memory."""
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InvalidInputError, match=r"eval\.processes to 2, at most 16$"):
        answered([questions("who?")], 17)
    assert answered([questions("who?")], 3)[2]


@pytest.mark.parametrize(("count", "sizes"), [(1, [3, 2]), (3, [2, 2, 2, 2, 1]), (4, [1])])
def test_every_portion_goes_to_one_worker(fake: None, count: int, sizes: list[int]) -> None:
    every = iter(questions(*["who?"] * sum(sizes)))
    portions = [[next(every) for _ in range(size)] for size in sizes]
    items, after, processes = answered(portions, count)
    assert sorted(item["key"] for item in items) == sorted(f"q{n}" for n in range(sum(sizes)))
    by = {item["key"]: item["by"] for item in items}
    assert all(len({by[question.id] for question in portion}) == 1 for portion in portions)
    assert sorted(after) == sorted(sizes)
    assert [process.returncode for process in processes] == [0] * count


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("die", 1, "was ended by signal 9, perhaps because memory ran out; finished answers are"),
        ("end", 1, "ended with exit code 7; finished answers are kept: go on with --resume"),
        ("fail", 5, "retriever: nobody answers; use --resume"),
    ],
)
def test_a_worker_that_ends_ends_the_evaluation(
    fake: None, text: str, code: int, words: str
) -> None:
    kept: list[Any] = []
    portions = [questions("a", text), questions("b")]
    processes: list[Any] = []

    def answer() -> None:
        with open_workers(Job(load_config([], []), "direct"), 2) as group:
            processes.extend(group.processes)
            group.answer(
                portions, lambda item, seconds: kept.append(item["key"]), lambda portion: None
            )

    with pytest.raises(TspoError) as raised:
        answer()
    assert words in str(raised.value)
    assert raised.value.exit_code == code
    assert "q0" in kept
    assert all(process.returncode is not None for process in processes), "none is left behind"


def test_workers_that_opened_different_models_do_not_answer(fake: None) -> None:
    """The directory was exported anew between them: their answers are of no model."""
    job = Job(load_config([], ['model.path="replaced"']), "direct")
    with pytest.raises(InvalidInputError, match="replaced: was replaced"), open_workers(job, 2):
        pass
    with open_workers(job, 1) as alone:
        assert alone.facts["model"].startswith("m")


def test_one_engine_needs_one_gpu(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(InvalidInputError, match="at most 2"),
        open_workers(Job(load_config([], []), "direct"), 3),
    ):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    assert [row["CUDA_VISIBLE_DEVICES"] for row in workers._environments(2)] == ["5", "GPU-abc"]


@pytest.mark.parametrize(
    ("questions", "portion", "processes", "words"),
    [
        (1000, 1024, 4, "3 of 4 processes have nothing to do; set eval.portion=250 or less"),
        (10, 5, 3, "1 of 3 processes"),
        (10, 4, 3, ""),
        (2, 256, 8, ""),
    ],
)
def test_processes_without_work_are_told(
    questions: int, portion: int, processes: int, words: str
) -> None:
    found = workers.idle_processes(questions, portion, processes)
    assert (words in found) if found and words else (found is None and not words)


def test_what_is_said_arrives_as_it_was() -> None:
    portion = [
        Question("1", "wer \ud83d?\n", ("a", "b"), "d", ("p",), "full", "bridge", {"n": [1]}),
        Question("2", "", (), "d"),
    ]
    assert portion_of(portion_line(portion)) == portion
    settings = ["eval.processes=3", "rollout.max_searches=2", 'model.path="x y"', "seed=4"]
    job = Job(load_config([], settings), "rag", (Example("q", "a", "r"),), True)
    assert Job.of(job.line()) == job


def test_an_endpoint_needs_no_processes(playground: Playground) -> None:
    done = run_tspo(
        *("eval", "some-model", "--endpoint", "http://127.0.0.1:9/v1", "--method", "direct"),
        *("--data", playground.world / "test.jsonl", "--set", "eval.processes=2"),
    )
    assert done.code == 2
    assert "endpoint.concurrency" in done.err


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    """Also where another one has done the first half."""
    options = [
        *("eval", playground.model, "--data", playground.world / "test.jsonl", "--json"),
        *("--index", playground.index, "--set", "eval.batch_size=4", "--set", "eval.portion=4"),
        *("--set", "eval.temperature=1.0", "--set", "rollout.max_new_tokens=24"),
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = tspo(*options, "--out", one)
    part = json.loads((one / "world.json").read_text())["signature"]
    two.mkdir()
    lines = [json.dumps({"signature": part})]
    items = list(read_jsonl_gz(one / "world.items.jsonl.gz"))
    lines += [json.dumps({"key": row["key"], "record": row, "seconds": 0.1}) for row in items[:6]]
    (two / "world.partial.jsonl").write_text("\n".join(lines) + "\n")
    done = tspo(*options, "--out", two, "--resume", "--set", "eval.processes=2")
    for name in ("world.json", "world.items.jsonl.gz"):
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    assert len(items) == 20
    first, second = (json.loads(finished.out)["results"][0] for finished in (alone, done))
    assert first.keys() == second.keys()
    assert {key: first[key] for key in ("n", "em", "f1", "searches", "signature")} == {
        key: second[key] for key in ("n", "em", "f1", "searches", "signature")
    }
