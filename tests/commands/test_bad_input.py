"""What goes wrong in practice: one clear line, the documented exit code, nothing overwritten."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Playground, run_tspo

GOOD = {"id": "q1", "question": "who?", "golden_answers": ["x"]}
Case = Callable[[Path, Playground], tuple[list[object], int, str]]


def unknown_key(path: Path, _: Playground) -> tuple[list[object], int, str]:
    file = path / "a.toml"
    file.write_text("[train]\nstep = 3\n")
    return ["train", file], 3, "did you mean"


def missing_experiment(path: Path, _: Playground) -> tuple[list[object], int, str]:
    return ["train", path / "none.toml"], 4, "none.toml"


def malformed_line(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    file = path / "bad.jsonl"
    file.write_text(json.dumps(GOOD) + "\n{'id': 2}\n")
    return ["eval", playground.model, "--data", file, "--index", playground.index], 3, f"{file}:2"


def malformed_training_line(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    file = path / "bad.jsonl"
    file.write_text(json.dumps(GOOD) + "\nnonsense\n")
    options = playground.settings(data__train=json.dumps([str(file)]))
    return ["train", "tiny/tspo", "--dry-run", *options], 3, f"{file}:2"


def missing_deepspeed_file(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    file = path / "ds.json"
    options = playground.settings(deepspeed__config=str(file))
    return ["train", "tiny/tspo", "--dry-run", *options], 4, str(file)


def deepspeed_file_with_a_batch_size(
    path: Path, playground: Playground
) -> tuple[list[object], int, str]:
    file = path / "ds.json"
    file.write_text('{"train_batch_size": 8}')
    options = playground.settings(deepspeed__config=str(file))
    return ["train", "tiny/tspo", "--dry-run", *options], 3, "train_batch_size"


def missing_prompt_template(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    file = path / "prompt.txt"
    options = playground.settings(rollout__prompt=str(file))
    return ["train", "tiny/tspo", "--dry-run", *options], 4, str(file)


def empty_corpus(path: Path, _: Playground) -> tuple[list[object], int, str]:
    file = path / "empty.jsonl"
    file.touch()
    return ["index", "build", file, "--out", path / "index"], 3, str(file)


def duplicate_ids(path: Path, _: Playground) -> tuple[list[object], int, str]:
    file = path / "twice.jsonl"
    passages = [{"id": "7", "title": "a", "text": text} for text in ("b", "c")]
    file.write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    named = f"{file}:2: expected ids that differ, got '7' as on line 1"
    return ["index", "build", file, "--out", path / "index"], 3, named


def question_without_answers(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    file = path / "questions.jsonl"
    file.write_text(json.dumps(GOOD | {"golden_answers": []}) + "\n")
    return ["eval", playground.model, "--data", file, "--index", playground.index], 3, f"{file}:1"


def model_without_tokenizer(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    model = path / "model"
    shutil.copytree(playground.model, model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    data = ["--data", playground.world / "test.jsonl", "--index", playground.index]
    return ["eval", model, *data], 4, "tokenizer"


def missing_model(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    data = ["--data", playground.world / "test.jsonl", "--index", playground.index]
    return ["eval", path / "no-model", *data], 4, "no-model"


def missing_index(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    data = ["--data", playground.world / "test.jsonl", "--index", path / "no-index"]
    return ["eval", playground.model, *data], 4, "no-index"


def missing_data(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    return (
        ["eval", playground.model, "--data", path / "none.jsonl", "--index", playground.index],
        4,
        "none.jsonl",
    )


def nobody_serves(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    data = ["--data", playground.world / "test.jsonl", "--retriever", url]
    return ["eval", playground.model, *data, "--set", "retriever.retries=0"], 5, url


def unknown_method(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    data = ["--data", playground.world / "test.jsonl", "--index", playground.index]
    return ["eval", playground.model, *data, "--method", "search_r2"], 3, "did you mean search_r1?"


def method_without_passages(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    return (
        ["eval", playground.model, "--data", playground.world / "test.jsonl", "--method", "rag"],
        2,
        "--index",
    )


def unknown_algorithm(path: Path, playground: Playground) -> tuple[list[object], int, str]:
    options = playground.settings(credit__algorithm="tpso")
    return ["train", "tiny/tspo", "--out", path / "run", *options], 3, "did you mean tspo?"


def no_run_to_report(path: Path, _: Playground) -> tuple[list[object], int, str]:
    return ["report", path / "nothing"], 4, "nothing"


CASES = [
    unknown_key,
    missing_experiment,
    malformed_line,
    malformed_training_line,
    missing_deepspeed_file,
    deepspeed_file_with_a_batch_size,
    missing_prompt_template,
    empty_corpus,
    duplicate_ids,
    question_without_answers,
    model_without_tokenizer,
    missing_model,
    missing_index,
    missing_data,
    nobody_serves,
    unknown_method,
    method_without_passages,
    unknown_algorithm,
    no_run_to_report,
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_clear_line(case: Case, tmp_path: Path, playground: Playground) -> None:
    arguments, code, text = case(tmp_path, playground)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = run_tspo(*arguments, cwd=tmp_path)
    assert done.code == code, done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    assert text in errors[0]
    assert "Traceback" not in done.err
    assert done.out == ""
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in after if path not in before} == set(), (
        "a failing command must leave nothing behind"
    )


def test_a_port_in_use(playground: Playground) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_tspo("serve", playground.index, "--port", taken.getsockname()[1])
    assert done.code == 4
    assert done.err.startswith("error: ")
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--nonsense"], ["train"]])
def test_usage(arguments: list[str]) -> None:
    done = run_tspo(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_help_needs_no_heavy_import() -> None:
    import subprocess
    import sys

    script = (
        "import sys, tspo_cli.commands.app; print([n for n in ('torch', 'pandas', "
        "'transformers') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
