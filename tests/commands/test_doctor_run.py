"""`tspo doctor RUN`: what is wrong with a run directory is named, and what to do."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.permissions import permissions_count
from tests.reporting.tree import make_tree
from tspo_cli import not_a_run, runs
from tspo_cli.commands.app import app
from tspo_cli.config.load_config import read_resolved, to_toml
from tspo_cli.config.schema import ModelConfig
from tspo_cli.config.sweeps import sweep_file
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.models.tiny import tiny_model
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.record_digests import changing
from tspo_cli.retrieval import manifest
from tspo_cli.runs import items_file, read_jsonl_gz, write_jsonl_gz
from tspo_cli.training.best import forget_later


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("doctor"), steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model(64, ModelConfig(hidden_size=64), 0).save_pretrained(path)
    tiny_tokenizer(["word"], ["ba"]).save_pretrained(path)
    return path


@pytest.fixture
def run(tree: Path, model: Path, tmp_path: Path) -> Path:
    """A finished run with its model."""
    path = Path(shutil.copytree(tree / "tspo", tmp_path / "run"))
    shutil.copytree(model, path / "model")
    return path


def problems(run: Path) -> list[str]:
    done = CliRunner().invoke(app, ["doctor", str(run), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == (0 if found["ok"] else 1)
    assert CliRunner().invoke(app, ["doctor", str(run)]).exit_code == done.exit_code
    return [line["detail"] for line in found["findings"] if line["state"] == "problem"]


def found_in(run: Path, name: str) -> list[str]:
    """The details of the findings of a part."""
    found = json.loads(CliRunner().invoke(app, ["doctor", str(run), "--json"]).stdout)
    return [line["detail"] for line in found["findings"] if line["name"] == name]


def test_a_whole_run_has_no_problem(run: Path) -> None:
    assert problems(run) == []


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.resolved.json", "{", "config.resolved.json: not valid JSON"),
        (
            "config.resolved.json",
            '{"model": {}, "train": {"steps": "x"}}',
            "train.steps: Input should be",
        ),
        ("config.resolved.json", "{}", "model: Field required"),
        ("config.resolved.json", '{"step": "x"}', "model: Field required"),
        ("config.toml", "[train", "config.toml:1: not valid TOML"),
        ("config.toml", "a = 1\na = 2\n", "config.toml:2: not valid TOML"),
        ("status.json", "[]", "status.json: expected"),
        ("status.json", '{"state": "running", "step": 1, "attempt": 1}', "it was killed"),
        ("status.json", '{"state": "failed", "step": 1, "attempt": 1}', "see logs/"),
        (
            "status.json",
            '{"state": "stopped", "step": 1, "attempt": 1}',
            "stopped at step 1; begin again with --resume",
        ),
        ("status.json", '{"state": "finished", "step": 9, "attempt": 1}', "has 2 steps"),
        ("metrics.jsonl", '{"step": "x"}\n', "step: Input should be a valid integer"),
        ("timings.jsonl", '{"step": 1, "total": 1.0}\n', "timings.jsonl has 1 of 2 steps"),
        ("timings.jsonl", '{"step": 1, "total": 1.0}\n{"step": 2, "to', "has 1 of 2 steps"),
        ("timings.jsonl", "", "timings.jsonl has 0 of 2 steps"),
        ("env.json", '{"python": [[1]]}', "python: Input should be"),
        ("env.json", '{"cpu_count": "2"}', "cpu_count: Input should be a valid integer"),
        ("env.json", '{"gpus": 5}', "gpus: Input should be a valid list"),
        ("inputs.json", "{", "inputs.json: not valid JSON"),
        ("inputs.json", "[]", "inputs.json: expected a JSON object, found list; put back a copy"),
        ("inputs.json", '{"search": [[1]]}', "search: Input should be an instance of str"),
        ("eval/step_000002/test.json", "{}", "dataset: Field required"),
        ("eval/step_000002/test.items.jsonl.gz", "no", "test.items.jsonl.gz: damaged"),
        ("rollouts/step_000001.jsonl.gz", "no", "step_000001.jsonl.gz: damaged"),
        ("checkpoints/step_000002/state.json", "{}", "put back a copy"),
    ],
)
def test_what_is_damaged_is_named(run: Path, file: str, text: str, words: str) -> None:
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_text(text)
    assert any(words in detail for detail in problems(run)), problems(run)


def test_settings_that_somebody_edited_are_noted(run: Path) -> None:
    """A run reads config.resolved.json; config.toml is what people read, and may edit."""
    config = read_resolved(run)
    (run / "config.toml").write_text(to_toml(config))
    assert found_in(run, "configuration") == ["rl"]
    (run / "config.toml").write_text(to_toml(config).replace("seed = 1\n", "seed = 2\n"))
    assert found_in(run, "configuration") == [
        "rl; config.toml has other values than config.resolved.json, which counts, for seed"
    ]
    assert problems(run) == []


def test_a_question_that_stands_in_an_evaluation_twice_is_named(run: Path) -> None:
    """Also where the digest was made again."""
    path = items_file(run / "eval" / "step_000002", "test")
    items = list(read_jsonl_gz(path))
    with changing(path):
        write_jsonl_gz(path, [*items, items[0]])
    (said,) = problems(run)
    assert f"{path}:{len(items) + 1}: expected each question once, got " in said
    for command in (["report", str(run), "--table", "main"], ["inspect", str(run), "--eval"]):
        with pytest.raises(InvalidInputError, match="of line 1 again"):
            CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
def test_a_changed_record_of_the_steps_is_none_of_the_status(run: Path, name: str) -> None:
    with changing(run / name):
        pass
    with (run / name).open("a") as file:
        file.write("x")
    found = json.loads(CliRunner().invoke(app, ["doctor", str(run), "--json"]).stdout)["findings"]
    (problem,) = [one for one in found if one["state"] == "problem"]
    assert problem["name"] == "steps"
    assert problem["detail"].startswith(f"{run / name}: differs from its digest")
    assert [one["state"] for one in found if one["name"] == "status"] == ["ok"]


def test_a_missing_model_and_leftovers(run: Path) -> None:
    shutil.rmtree(run / "model")
    (run / "checkpoints" / ".step_000002.tmp").mkdir(parents=True)
    (run / "checkpoints" / "damaged_step_000001").mkdir()
    assert any("missing" in detail for detail in problems(run))
    text = CliRunner().invoke(app, ["doctor", str(run)]).stdout
    assert ".step_000002.tmp: left by a killed attempt" in text
    assert "damaged_step_000001: set aside" in text


def test_a_run_that_was_killed_while_it_replaced_another(run: Path) -> None:
    """--resume would put the old run back, and refuse the new one's settings."""
    old = Path(shutil.copytree(run, run / ".replaced"))
    shutil.rmtree(run / "model")
    (run / "status.json").write_text(
        '{"state": "stopped", "step": 2, "attempt": 1, "warnings": []}'
    )
    text = CliRunner().invoke(app, ["doctor", str(run)]).stdout
    assert "stopped at step 2; begin again with --overwrite" in text
    assert "none: begin again with --overwrite" in text
    assert ".replaced: the old run; tspo train puts it back, unless this one has" in text
    for path in set(run.iterdir()) - {old}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(MissingResourceError, match=r"kept the old run in \.replaced, and the next"):
        CliRunner().invoke(app, ["doctor", str(run)], catch_exceptions=False)


SHARDS = {"metadata": {}, "weight_map": {"a": "b.safetensors"}}


@pytest.mark.parametrize("folder", ["model", "best"])
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("model.safetensors", None, "without weights"),
        ("model.safetensors", "", "model.safetensors: damaged"),
        ("model.safetensors", "a" * 20, "model.safetensors: damaged"),
        ("config.json", None, "this directory has no configuration"),
        ("config.json", "{", "config.json: not valid JSON"),
        ("config.json", '{"model_type": "bert"}', "attends in both directions"),
        ("tokenizer.json", None, "the tokenizer has no vocabulary"),
        ("tokenizer.json", "[]", "tokenizer.json: expected a JSON object"),
        ("model.safetensors.index.json", json.dumps(SHARDS), "the first is b.safetensors"),
    ],
)
def test_a_model_that_cannot_be_opened_is_named(
    run: Path, folder: str, name: str, text: str | None, words: str
) -> None:
    """A finished run without a checkpoint cannot export it again, and the advice says nothing else:
    a --resume leaves a model that is there as it is.
    """
    if folder == "best":
        shutil.copytree(run / "model", run / "best")
    (run / folder / name).unlink(missing_ok=True)
    if text is not None:
        (run / folder / name).write_text(text)
    if text and "weight_map" in text:
        (run / folder / "model.safetensors").rename(run / folder / "a.safetensors")
    (found,) = problems(run)
    assert words in found
    assert "original" not in found
    assert "put back a copy" in found
    assert "--resume" not in found
    (run / "checkpoints" / "step_000002").mkdir(parents=True)
    again = f"delete {run}/model, and --resume exports it from the last checkpoint"
    assert (again in "".join(problems(run))) == (folder == "model")


def test_what_is_no_folder_in_the_place_of_a_model(run: Path) -> None:
    shutil.rmtree(run / "model")
    (run / "model").touch()
    (found,) = problems(run)
    assert found.startswith(f"{run}/model: expected a directory; put back a copy")


def test_what_macos_leaves_beside_files_is_none_of_them(run: Path) -> None:
    """A copy on another file system has ._NAME beside each file."""
    for path in sorted(run.rglob("*.*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\xff")
    assert problems(run) == []
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0


def test_a_resume_that_changes_nothing_sets_no_checkpoint_aside(run: Path) -> None:
    for step in (1, 2):
        write_checkpoint(run / "checkpoints" / f"step_{step:06d}", step)
    assert problems(run) == []
    (run / "checkpoints" / "step_000002" / "state.json").write_text("{}")
    (found,) = problems(run)
    assert "delete it, or --resume with more train.steps sets it aside and takes" in found
    (run / "status.json").write_text('{"state": "stopped", "step": 2, "attempt": 1}')
    assert any("; --resume sets it aside and takes step_000001" in one for one in problems(run))


def write_checkpoint(folder: Path, step: int) -> None:
    folder.mkdir(parents=True)
    numbers = {f"{key}.a": np.zeros(2, "float32") for key in ("param", "exp_avg", "exp_avg_sq")}
    save_file(numbers, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps({"updates": step, "extra": {"step": step}}))


def test_where_no_checkpoint_is_whole_no_line_speaks_of_an_older_one(run: Path) -> None:
    (run / "checkpoints" / "step_000002").mkdir(parents=True)
    (run / "checkpoints" / "step_000002" / "state.json").write_text("{}")
    first, last = problems(run)
    assert "step_000002" in first
    assert "--resume" not in first
    assert last == "none is whole; put back a copy, or start anew with --overwrite"


def test_a_model_that_opens_is_not_said_to_be_as_it_was_written(run: Path) -> None:
    text = CliRunner().invoke(app, ["doctor", str(run)]).stdout
    assert f"{run}/model can be opened (its weights have no digest)" in text


def notes(run: Path) -> list[str]:
    found = json.loads(CliRunner().invoke(app, ["doctor", str(run), "--json"]).stdout)["findings"]
    return [f"{line['name']}: {line['detail']}" for line in found if line["state"] == "note"]


def test_evaluations_and_rollouts_that_somebody_left_out_are_noted(tree: Path, run: Path) -> None:
    config = json.loads((run / "config.resolved.json").read_text())
    config["eval"] |= {"data": ["test.jsonl"], "every": 1}
    (run / "config.resolved.json").write_text(json.dumps(config))
    assert not [note for note in notes(run) if "settings" in note]
    shutil.rmtree(run / "eval" / "step_000001")
    shutil.rmtree(run / "rollouts")
    asked = [note.split(":")[:2] for note in notes(run) if "settings" in note]
    assert asked == [
        ["evaluations", " none of step 1 (1 of 3 that the settings name)"],
        ["rollouts", " none of step 1, 2 (2 of 2 that the settings name)"],
    ]
    config["train"]["keep_rollouts"] = 0
    config["eval"]["every"] = 2
    (run / "config.resolved.json").write_text(json.dumps(config))
    assert not [note for note in notes(run) if "settings" in note]


def test_a_directory_that_cannot_be_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    assert any("read-only" in detail for detail in problems(run))


def test_a_living_training_is_no_problem(run: Path) -> None:
    (run / "status.json").write_text('{"state": "running", "step": 2, "attempt": 1}')
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert problems(run) == []
    assert any("was killed" in detail for detail in problems(run))


def test_a_lock_that_cannot_be_read_is_a_problem(run: Path) -> None:
    (run / ".lock").write_text("")
    (run / ".lock").chmod(0)
    with permissions_count():
        assert [found for found in problems(run) if ".lock: cannot be read" in found]


@pytest.mark.parametrize(("state", "step"), [("running", 0), ("stopped", 2), ("failed", 1)])
def test_a_run_without_a_checkpoint_begins_again(run: Path, state: str, step: int) -> None:
    (run / "status.json").write_text(json.dumps({"state": state, "step": step, "attempt": 1}))
    text = CliRunner().invoke(app, ["doctor", str(run)]).stdout
    assert "none: begin again with --resume" in text
    assert "begin again with --resume" in text
    assert "continue" not in text
    (run / "checkpoints" / "step_000001").mkdir(parents=True)
    assert "continue with --resume" in CliRunner().invoke(app, ["doctor", str(run)]).stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "not a run directory (it has no config.resolved.json); name a run directory"),
        ("a/eval.json", "it holds evaluations (a); name one of them"),
        ("a/q.partial.jsonl", "it holds evaluations (a); name one of them"),
        ("manifest.json", "an index; tspo index verify"),
        ("config.json", "a model; tspo plan"),
        ("status.json", "config.resolved.json is missing; put back a copy"),
        ("checkpoints/step_000001/state.json", "config.resolved.json is missing"),
        ("b/config.resolved.json", "it holds runs (b); name one of them"),
    ],
)
def test_another_folder_is_named(tmp_path: Path, name: str, words: str) -> None:
    if name:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    done = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert isinstance(done.exception, MissingResourceError)
    assert words in str(done.exception)


@pytest.mark.parametrize("part", ["eval", "eval/step_000002", "rollouts"])
def test_a_part_of_a_run_is_no_evaluation(
    run: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    done = CliRunner().invoke(app, ["doctor", f"run/{part}"])
    assert str(done.exception) == f"run/{part}: not a run directory but a part of one; name run"


def test_a_closed_folder_hides_no_other_part(run: Path) -> None:
    (run / "status.json").write_text("{")
    (run / "rollouts").chmod(0)
    with permissions_count():
        found = problems(run)
    (run / "rollouts").chmod(0o755)
    assert f"{run / 'rollouts'}: cannot be read (Permission denied); give this user" in str(found)
    assert f"{run / 'status.json'}: " in str(found)


def test_rollouts_and_a_best_policy_of_another_run_are_named(run: Path, model: Path) -> None:
    """Half a copy of another run lay there, with its digests."""
    runs.write_json(run / runs.INPUTS_NAME, {"experiment": "a"})
    shutil.copytree(model, run / "best")
    best = run / "best" / "best.json"
    runs.write_json(best, {"step": 2, "metric": "em", "value": 0.5, "experiment": "a"})
    records = run / "rollouts" / "step_000001.jsonl.gz"
    first, *others = read_jsonl_gz(records)
    for rollout in first["trajectories"]:
        for turn in rollout["turns"]:
            turn["tokens"] += 1
    lines = [row | {"sampled_tokens": tokens(run, row["step"])} for row in metrics(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert problems(run) == []
    with changing(records):
        write_jsonl_gz(records, [first, *others])
    runs.write_json(best, runs.read_json(best) | {"experiment": "b"})
    sampled = lines[0]["sampled_tokens"]
    assert [line.split("; ")[0] for line in problems(run)] == [
        f"{records}: expected {sampled:,} sampled tokens, as the metrics of step 1 say, got "
        f"{tokens(run, 1):,}",
        f"{best}: is the best policy of another run",
    ]
    with pytest.raises(InvalidInputError, match="the best policy of another run; move"):
        forget_later(run, 2, {"experiment": "a"})


def metrics(run: Path) -> list[dict[str, Any]]:
    return runs.read_jsonl(run / "metrics.jsonl")


def tokens(run: Path, step: int) -> int:
    """The tokens of the recorded rollouts of a step."""
    groups = read_jsonl_gz(run / "rollouts" / f"step_{step:06d}.jsonl.gz")
    rollouts = [rollout for group in groups for rollout in group["trajectories"]]
    return sum(turn["tokens"] for rollout in rollouts for turn in rollout["turns"])


@pytest.mark.parametrize("name", ["config.resolved.json", "status.json", "metrics.jsonl", "lock"])
@pytest.mark.parametrize("kind", ["closed", "directory", "damaged"])
def test_every_problem_says_what_to_do(run: Path, name: str, kind: str) -> None:
    path = run / (name if name != "lock" else ".lock")
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    else:
        path.write_text("{")
        path.chmod(0 if kind == "closed" else 0o644)
    (run / "checkpoints" / "step_000002").mkdir(parents=True)
    (run / "checkpoints" / "step_000002" / "state.json").write_text("{}")
    with permissions_count():
        found = problems(run)
    assert found
    assert [line for line in found if "; " not in line] == []
    if (name, kind) == ("lock", "directory"):
        assert f"{path}: expected a file, got a directory; remove it" in found


@pytest.mark.parametrize(
    "command",
    [
        ["inspect"],
        ["runs", "show"],
        ["runs", "watch"],
        ["credit"],
        ["eval", "--data", "q.jsonl", "--index", "i"],
    ],
)
def test_every_command_that_takes_a_run_says_where_the_runs_are(
    command: list[str], tree: Path
) -> None:
    done = CliRunner().invoke(app, [*command, str(tree)])
    assert isinstance(done.exception, MissingResourceError)
    assert f"{tree}: not a run directory; it holds runs (" in str(done.exception)


def test_other_directories_are_known_by_the_files_that_they_have() -> None:
    assert not_a_run.SWEEP_NAME == sweep_file.SWEEP_NAME
    assert not_a_run.MANIFEST_NAME == manifest.MANIFEST_NAME


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    for name, words in {
        "loop": "is a link to nothing",
        "gone": "is a link to nothing",
        "file": "not a directory",
        "none": "no such directory",
    }.items():
        done = CliRunner().invoke(app, ["doctor", str(tmp_path / name)])
        assert isinstance(done.exception, MissingResourceError), name
        assert words in str(done.exception)


def test_a_run_with_loops_and_without_records(run: Path) -> None:
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    (run / "checkpoints").symlink_to(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    assert any("has 0 steps" in detail for detail in problems(run))
    (run / "status.json").unlink()
    problems(run)
