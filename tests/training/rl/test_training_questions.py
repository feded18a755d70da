"""Questions of several files: a group has one question's rollouts, whatever the files repeat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.training.rl.question_batches import read_training_questions


def read(*files: Path) -> list[Question]:
    names = json.dumps([str(path) for path in files])
    return read_training_questions(load_config(["tiny/grpo"], [f"data.train={names}"]))


def write(path: Path, texts: Sequence[str], source: str = "nq") -> Path:
    records = (
        {"id": f"q{n}", "question": text, "golden_answers": ["yes"], "data_source": source}
        for n, text in enumerate(texts)
    )
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_questions_that_an_earlier_file_has_are_taken_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both had one group identity and one seed: a group held every rollout twice."""
    first, second = write(tmp_path / "a.jsonl", "AB"), write(tmp_path / "b.jsonl", "ABC")
    assert [question.question for question in read(first, second)] == ["A", "B", "C"]
    said = f"data.train: {second}: 2 questions are in earlier files, and left out here"
    assert said in capsys.readouterr().err
    assert len(read(second, second)) == 3
    assert f"{second}: 3 questions are in earlier files" in capsys.readouterr().err


def test_different_questions_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", "AB"), write(tmp_path / "b.jsonl", "AX")
    with pytest.raises(InvalidInputError) as caught:
        read(first, second)
    assert f"{second}: expected ids that differ from those of {first}" in str(caught.value)
    assert "'nq/q1'" in str(caught.value)


def test_equal_ids_of_different_data_sets_are_different_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path / "a.jsonl", "AB"), write(tmp_path / "b.jsonl", "AX", "hotpotqa")
    assert len(read(*files)) == 4
    assert not capsys.readouterr().err
