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


def trained(inputs: Path, prepare: str = "") -> tuple[list[int], list[str], str]:
    """Exit codes of two processes, their errors, and all that they said."""
    settings = {
        "model.path": inputs / "model",
        "retriever.index": "index",
        "data.train": json.dumps([str(inputs / "train.jsonl")]),
        "eval.data": "[]",
        "eval.every": 0,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    codes, said = run_prepared(
        prepare, "train", "tiny/grpo", *words, "--out", "run", ranks=2, cwd=inputs
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
