"""What a command names and is not there is said before heavy libraries are loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import run_tspo

# Runs a command and prints which libraries it loaded.
_RUN = """
import sys
from tspo_cli.commands.app import main
try:
    main()
finally:
    print("loaded:", *sorted({"torch", "transformers", "datasets", "pandas"} & {*sys.modules}))
"""
TRAIN = [
    *("train", "any/grpo", "--set", "model.path=model", "--set", "data.train=['q.jsonl']"),
    *("--set", "retriever.index=none"),
]
COMMANDS = {
    "model of an evaluation": (["eval", "none", "--data", "q.jsonl"], "none: no such model"),
    "data of an evaluation": (["eval", "model", "--data", "no.jsonl"], "no.jsonl: no such quest"),
    "index of an evaluation": (
        ["eval", "model", "--data", "q.jsonl", "--index", "none"],
        "none: no such index",
    ),
    "no index": (
        ["eval", "model", "--data", "q.jsonl", "--index", "model"],
        "model: not an index directory",
    ),
    "model of a training": ([*TRAIN, "--set", "model.path=./none"], "./none: no such model"),
    "data of a dry run": (
        [*TRAIN, "--dry-run", "--set", "data.train=['no.jsonl']"],
        "no.jsonl: no such question file",
    ),
    "data of evaluations": (
        [*TRAIN, "--set", "eval.data=['no.jsonl']"],
        "no.jsonl: no such question file",
    ),
    "world of demonstrations": (
        ["train", "tiny/warmstart", "--dry-run"],
        "runs/demo/world: no world.json in it; `tspo demo` makes one",
    ),
    "start of the demo": (
        ["train", "tiny/grpo"],
        "runs/demo/warmstart/model: no such model directory; `tspo demo` makes it",
    ),
    "questions of the demo": (
        ["eval", "model", "--data", "runs/demo/world/test.jsonl"],
        "runs/demo/world/test.jsonl: no such question file or data set; `tspo demo` makes it",
    ),
    "index of the demo": (
        ["eval", "model", "--data", "q.jsonl", "--index", "runs/demo/index"],
        "runs/demo/index: no such index; `tspo demo` makes it",
    ),
    "start of real training": (
        ["train", "real/grpo", "--dry-run"],
        "runs/real/warmstart/model: no such model directory; `make real` makes it",
    ),
    "index of a resumed training": ([*TRAIN, "--resume"], "none: no such index"),
}


@pytest.mark.parametrize(("words", "said"), COMMANDS.values(), ids=COMMANDS)
def test_what_is_missing_is_said_at_once(tmp_path: Path, words: Sequence[str], said: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "q.jsonl").write_text('{"id": "1", "question": "q", "golden_answers": ["a"]}\n')
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *words], cwd=tmp_path, capture_output=True, text=True
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith(f"error: {said}"), done.stderr
    assert done.returncode in (3, 4)
    assert done.stdout == "loaded:\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "q.jsonl"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            [*TRAIN, "--dry-run", "--set", "model.path=./none", "--set", "data.train=['a', 'q']"],
            4,
            ["./none: no such model", "a: no such question", "q: no such question", "none: no suc"],
        ),
        (
            [*TRAIN, "--set", "eval.data=['b']", "--set", "deepspeed.config=ds.json"],
            4,
            ["b: no such question", "ds.json: no such file", "none: no such index"],
        ),
        (
            ["eval", "none", "no.jsonl", "q.jsonl", "--data", "b", "--index", "model"],
            4,
            ["none: no such model", "b: no such ques", "no.jsonl: no such", "model: not an index"],
        ),
        (
            ["train", "any/sft", "--dry-run", "--set", "model.path=./none", "--set",
             "data.demonstrations=['a.jsonl', 'model', 'b.jsonl']"],
            4,
            ["./none: no such", "a.jsonl: no such file", "model: expected a", "b.jsonl: no such"],
        ),
        (
            ["train", "tiny/warmstart", "--dry-run", "--set", "prepare=make it"],
            4,
            ["runs/demo/world: no world.json", "runs/demo/world/test.jsonl: no such",
             "runs/demo/index: no such index"],
        ),
    ],
)  # fmt: skip
def test_all_that_is_missing_is_said_in_one_go(
    tmp_path: Path, words: Sequence[str], code: int, said: Sequence[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "q.jsonl").write_text('{"id": "1", "question": "q", "golden_answers": ["a"]}\n')
    done = run_tspo(*words, cwd=tmp_path)
    lines = done.err.splitlines()
    assert len(lines) == len(said), done.err
    assert all(
        line.startswith(f"error: {start}") for line, start in zip(lines, said, strict=True)
    ), done.err
    assert done.code == code
    assert done.err.count("this experiment needs first") == ("tiny/warmstart" in words)
