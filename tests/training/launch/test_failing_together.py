"""Processes of a launcher that fail before the training begins: all end, and one says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import run_prepared
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.runs import append_jsonl, write_json

HERE = "tests.training.launch.moments"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with an index, questions, and a model that is never opened."""
    passages = [{"id": name, "contents": f"green {name}"} for name in ("apples", "pears")]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in passages))
    build_index(tmp_path / "corpus.jsonl", tmp_path / "index")
    question = {"id": "1", "question": "What is green?", "golden_answers": ["apples"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(question) + "\n")
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", {"model_type": "qwen2"})
    return tmp_path


def trained(inputs: Path, prepare: str = "", run: str = "") -> tuple[list[int], list[str], str]:
    """Exit codes of two processes, their errors, and all that they said. `run` if it is not one
    that both find.
    """
    settings = {
        "model.path": inputs / "model",
        "retriever.index": "index",
        "data.train": json.dumps([str(inputs / "train.jsonl")]),
        "eval.data": "[]",
        "eval.every": 0,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    codes, said = run_prepared(
        *(prepare, "train", "tiny/grpo", *words, "--out", run or inputs / "run"),
        ranks=2,
        cwd=inputs,
    )
    assert "Traceback" not in said
    return codes, [line for line in said.splitlines() if line.startswith("error:")], said


def test_a_run_that_is_refused(inputs: Path) -> None:
    write_json(inputs / "run" / "config.resolved.json", {"model": {}})
    append_jsonl(inputs / "run" / "metrics.jsonl", {"step": 1})
    codes, errors, said = trained(inputs)
    assert codes == [3, 3], said
    assert len(errors) == 1
    assert "run: already holds a run" in errors[0]


def test_data_that_no_process_can_read(inputs: Path) -> None:
    (inputs / "train.jsonl").write_text("nonsense\n")
    codes, errors, said = trained(inputs)
    assert codes == [3, 3], said
    assert len(errors) == 1
    assert "train.jsonl:1" in errors[0]


def test_an_index_that_one_node_lacks(inputs: Path) -> None:
    """On a disk of its own, say. The second process is in another folder."""
    (inputs / "elsewhere").mkdir()
    codes, errors, said = trained(inputs, f"{HERE}:elsewhere:{inputs / 'elsewhere'}:1")
    assert codes == [4, 4], said
    assert len(errors) == 1
    assert errors[0].startswith("error: process 1 of 2: ")
    assert "index" in errors[0]


def elsewhere(inputs: Path) -> str:
    """The second process is in a folder with another index."""
    folder = inputs / "elsewhere"
    folder.mkdir()
    (inputs / "other.jsonl").write_text('{"id": "plums", "contents": "green plums"}\n')
    build_index(inputs / "other.jsonl", folder / "index")
    return f"{HERE}:elsewhere:{folder}:1"


def test_an_index_that_is_another_one_on_one_node(inputs: Path) -> None:
    codes, errors, said = trained(inputs, elsewhere(inputs))
    assert codes == [3, 3], said
    assert len(errors) == 1
    assert "process 1 of 2 has other inputs than process 0: passages (retriever.index)" in errors[0]


def test_a_run_directory_that_the_processes_do_not_share(inputs: Path) -> None:
    codes, errors, said = trained(inputs, elsewhere(inputs), "run")
    assert codes == [3, 3], said
    assert len(errors) == 1
    assert "elsewhere/run: is not the folder that process 0 writes the run into" in errors[0]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("seed=7", "seed (7, there 0)"),
        ("train.steps=5", "train.steps (5, there 100)"),
        ("checkpoint.every=3", "checkpoint.every (3, there 25)"),
        ("credit.algorithm=rloo", 'credit.algorithm ("rloo", there "grpo")'),
        ("--overwrite", "--overwrite (true, there false)"),
    ],
)
def test_processes_that_were_told_something_else(inputs: Path, word: str, shown: str) -> None:
    codes, errors, said = trained(inputs, f"{HERE}:told:{word}:1")
    assert codes == [3, 3], said
    assert len(errors) == 1
    assert "process 1 of 2 was started with other settings than process 0: " in errors[0]
    assert shown in errors[0]
    assert not (inputs / "run").exists()


def test_nodes_may_have_places_of_their_own(inputs: Path) -> None:
    (inputs / "other").symlink_to(inputs / "index")
    codes, errors, _ = trained(inputs, f"{HERE}:told:retriever.index=other:1")
    assert codes != [0, 0]
    assert not any("process 0" in error for error in errors), "the model is none, which is later"
