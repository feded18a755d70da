"""A damaged checkpoint is named and never trained on; a run is resumed with what it began with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.digests import file_digest, json_digest
from tspo_cli.disk import LOCK_NAME
from tspo_cli.errors import InvalidInputError
from tspo_cli.record_digests import DIGESTS_NAME, forget_digests
from tspo_cli.runs import COMMAND_NAME, read_json, read_jsonl
from tspo_cli.training.best import forget_later
from tspo_cli.training.core.checkpoints.checkpoint import find_checkpoint

pytestmark = pytest.mark.slow
Tspo = Callable[..., Finished]
Damage = Callable[[Path], object]
OLDER, NEWEST = "checkpoints/step_000002", "checkpoints/step_000004"


def settings(playground: Playground, **more: object) -> list[str]:
    return playground.settings(
        **{
            "train__steps": 4,
            "checkpoint__every": 2,
            "eval__data": "[]",
            "eval__every": 0,
            "train__export_model": "false",
            **more,
        }
    )


@pytest.fixture(scope="module")
def stopped(playground: Playground, tspo: Tspo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 2 and 4."""
    run = tmp_path_factory.mktemp("runs") / "run"
    tspo("train", "tiny/tspo", "--out", run, *settings(playground))
    return run


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def flip(path: Path, place: int, bit: int = 6) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object], *, sign: bool) -> None:
    """Change state.json; `sign` as somebody who computes its digest anew."""
    index = read_json(folder / "state.json")
    change(index)
    if sign:
        index.pop("sha256", None)
        index["sha256"] = json_digest(index)
    (folder / "state.json").write_text(json.dumps(index))


def edit_state(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors, with digests computed anew."""
    path = folder / "state.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    facts = {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}}
    edit_index(folder, lambda index: index.update(files=facts), sign=True)


def some(state: dict[str, torch.Tensor], kind: str) -> str:
    return next(name for name in sorted(state) if name.startswith(kind))


def state_damage(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    return lambda folder: edit_state(folder, change)


def index_damage(change: Callable[[dict[str, Any]], object], *, sign: bool = False) -> Damage:
    return lambda folder: edit_index(folder, change, sign=sign)


def text_damage(text: str) -> Damage:
    return lambda folder: (folder / "state.json").write_text(text)


DAMAGE: dict[str, Damage] = {
    "an exponent bit": lambda folder: flip(folder / "state.safetensors", -5),
    "a mantissa bit": lambda folder: flip(folder / "state.safetensors", -8, 0),
    "a bit of the header": lambda folder: flip(folder / "state.safetensors", 20),
    "the length of the header": lambda folder: flip(folder / "state.safetensors", 7),
    "half a file": lambda folder: cut(folder / "state.safetensors", 0.5),
    "one byte less": lambda folder: cut(folder / "state.safetensors", 0.99999),
    "an empty file": lambda folder: cut(folder / "state.safetensors", 0),
    "bytes behind it": lambda folder: append(folder / "state.safetensors", b"\0" * 8),
    "no tensors": lambda folder: (folder / "state.safetensors").unlink(),
    "a folder instead": lambda folder: (
        (folder / "state.safetensors").unlink(),
        (folder / "state.safetensors").mkdir(),
    ),
    "no index": lambda folder: (folder / "state.json").unlink(),
    "an empty index": text_damage(""),
    "{}": text_damage("{}"),
    "[]": text_damage("[]"),
    "null": text_damage("null"),
    "a number": text_damage("4"),
    "no JSON": text_damage("{'updates': 4"),
    "deep JSON": text_damage("[" * 100_000),
    "half an index": lambda folder: cut(folder / "state.json", 0.5),
    "no text": lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe\x00"),
    "another step": index_damage(lambda index: index["extra"].update(step=999)),
    "another step, signed": index_damage(lambda index: index["extra"].update(step=999), sign=True),
    "updates as text": index_damage(lambda index: index.update(updates="4"), sign=True),
    "updates below 0": index_damage(lambda index: index.update(updates=-1), sign=True),
    "updates changed": index_damage(lambda index: index.update(updates=5)),
    "updates true": index_damage(lambda index: index.update(updates=True), sign=True),
    "no step": index_damage(lambda index: index["extra"].pop("step"), sign=True),
    "extra a list": index_damage(lambda index: index.update(extra=[1]), sign=True),
    "files a list": index_damage(lambda index: index.update(files=["x"]), sign=True),
    "no digest of a file": index_damage(
        lambda index: index.update(files={"state.safetensors": 3}), sign=True
    ),
    "another file": index_damage(lambda index: index.update(files={"../x": {}}), sign=True),
    "a critic that is not there": index_damage(
        lambda index: index.update(critic_updates=4), sign=True
    ),
    "no moment": state_damage(lambda state: state.pop(some(state, "exp_avg."))),
    "no second moment": state_damage(lambda state: state.pop(some(state, "exp_avg_sq."))),
    "a moment of another shape": state_damage(
        lambda state: state.update({some(state, "exp_avg."): torch.zeros(3)})
    ),
    "a parameter that is not finite": state_damage(
        lambda state: state[some(state, "param.")].view(-1)[0].fill_(float("nan"))
    ),
    "a moment that is infinite": state_damage(
        lambda state: state[some(state, "exp_avg_sq.")].view(-1)[0].fill_(float("inf"))
    ),
    "a second moment below 0": state_damage(
        lambda state: state[some(state, "exp_avg_sq.")].view(-1)[0].fill_(-1e-12)
    ),
    "all second moments below 0": state_damage(
        lambda state: state[some(state, "exp_avg_sq.")].fill_(-1.0)
    ),
    "whole numbers": state_damage(
        lambda state: state.update(
            {
                some(state, "param."): torch.zeros_like(
                    state[some(state, "param.")], dtype=torch.int32
                )
            }
        )
    ),
    "no parameters": state_damage(
        lambda state: [state.pop(name) for name in [*state] if name.startswith("param.")]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    copied: Path, damage: str
) -> None:
    DAMAGE[damage](copied / NEWEST)
    found = find_checkpoint(copied)
    assert found.folder == copied / OLDER
    [(folder, problem)] = found.damaged.items()
    assert folder == copied / NEWEST
    assert problem.startswith(f"{copied / NEWEST}/")
    assert len(problem.splitlines()) == 1
    shutil.rmtree(copied / OLDER)
    with pytest.raises(InvalidInputError, match="no checkpoint is whole"):
        find_checkpoint(copied)


def test_folders_that_are_no_checkpoints_are_left_alone(copied: Path) -> None:
    for name in ("step_zzz", "step_12", "step_000009.old", "damaged_step_000008"):
        (copied / "checkpoints" / name).mkdir()
    assert find_checkpoint(copied).folder == copied / NEWEST
    for name in ("rollouts/step_x.jsonl.gz", "eval/step_abc"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text("notes")


def weights(run: Path) -> bytes:
    return (run / "checkpoints/step_000006/state.safetensors").read_bytes()


def test_a_resumed_run_goes_on_from_the_checkpoint_before(
    playground: Playground, stopped: Path, tspo: Tspo, tmp_path: Path
) -> None:
    longer = settings(playground, train__steps=6)
    for name in ("straight", "damaged"):
        shutil.copytree(stopped, tmp_path / name)
    damaged = tmp_path / "damaged"
    flip(damaged / NEWEST / "state.safetensors", -5)
    (damaged / "rollouts" / "step_x.jsonl.gz").write_text("notes")
    (damaged / "eval" / "step_abc").mkdir(parents=True)
    tspo("train", "tiny/tspo", "--out", tmp_path / "straight", "--resume", *longer)
    done = tspo("train", "tiny/tspo", "--out", damaged, "--resume", *longer)
    assert f"{damaged / NEWEST / 'state.safetensors'}: damaged" in done.err
    assert "resume after step 2" in done.err
    assert weights(damaged) == weights(tmp_path / "straight")
    assert read_jsonl(damaged / "metrics.jsonl") == read_jsonl(
        tmp_path / "straight" / "metrics.jsonl"
    )
    assert (damaged / "checkpoints" / "damaged_step_000004").is_dir()


def refused(run: Path, *arguments: object) -> str:
    """The one line with which resuming `run` is refused; its records stay as they are, but for the
    command.
    """

    def records() -> dict[Path, bytes]:
        ours = (COMMAND_NAME, DIGESTS_NAME, LOCK_NAME)
        files = (path for path in run.iterdir() if path.is_file() and path.name not in ours)
        return {path: path.read_bytes() for path in files}

    kept = records()
    done = run_tspo("train", "tiny/tspo", "--out", run, "--resume", *arguments)
    assert done.code == 3, done.err
    assert records() == kept
    return done.err.strip().splitlines()[-1]


def test_what_a_run_cannot_go_on_from_is_one_line(
    playground: Playground, copied: Path, tmp_path: Path
) -> None:
    """Also without digests, which a run of an earlier version does not have."""
    (copied / DIGESTS_NAME).unlink()
    longer = settings(playground, train__steps=6)
    metrics = copied / "metrics.jsonl"
    whole = metrics.read_text()
    lines = whole.splitlines(keepends=True)
    for records in (lines[1:], [*lines, lines[3]], ['{"reward": 1}\n', *lines[1:]]):
        metrics.write_text("".join(records))
        assert "metrics.jsonl: expected one line for each of the steps 1 to 4" in refused(
            copied, *longer
        )
    metrics.write_text(whole)

    questions = playground.world / "train.jsonl"
    changed = tmp_path / "train.jsonl"
    changed.write_text("".join(reversed(questions.read_text().splitlines(keepends=True))))
    record = copied / "inputs.json"
    digests = read_json(record)
    assert digests.keys() == {"questions", "index", "model", "search", "experiment"}
    for kind, words in (
        ("questions", "other training questions (data.train)"),
        ("index", "other passages (retriever.index)"),
        ("model", "other starting model (model.path)"),
        ("search", "other search settings (retriever.search, or those of the server)"),
    ):
        record.write_text(json.dumps({**digests, kind: "0123456789ab"}))
        assert words in refused(copied, *longer)
    record.write_text(json.dumps(digests))
    for folder in (OLDER, NEWEST):
        cut(copied / folder / "state.safetensors", 0.5)
    assert "no checkpoint is whole" in refused(copied, *longer)


def test_other_questions_in_the_same_file_are_noticed(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    questions, run = tmp_path / "train.jsonl", tmp_path / "run"
    shutil.copy(playground.world / "train.jsonl", questions)
    file = {"data__train": json.dumps([str(questions)])}
    tspo("train", "tiny/tspo", "--out", run, *settings(playground, **file, train__steps=2))
    lines = questions.read_text().splitlines(keepends=True)
    questions.write_text("".join(reversed(lines)))
    longer = settings(playground, **file, train__steps=4)
    assert "other training questions" in refused(run, *longer)
    questions.write_text("".join(lines))
    tspo("train", "tiny/tspo", "--out", run, "--resume", *longer)


def test_a_finished_run_stays_finished(playground: Playground, copied: Path, tspo: Tspo) -> None:
    before = read_json(copied / "status.json")
    assert (before["state"], before["step"]) == ("finished", 4)
    done = tspo("train", "tiny/tspo", "--out", copied, "--resume", *settings(playground))
    assert "finished already" in done.err
    assert read_json(copied / "status.json") == before
    shutil.rmtree(copied / "checkpoints")
    longer = settings(playground, train__steps=6)
    assert "has no checkpoint to go on from" in refused(copied, *longer)


def say_running(run: Path) -> None:
    """Leave the status that a killed run has."""
    status = run / "status.json"
    forget_digests(status)
    status.write_text(json.dumps({**read_json(status), "state": "running"}))


def test_a_run_killed_while_it_deleted_old_checkpoints(
    playground: Playground, copied: Path, tspo: Tspo
) -> None:
    keep_one = ["--set", "checkpoint.keep=1"]
    say_running(copied)
    tspo("train", "tiny/tspo", "--out", copied, "--resume", *settings(playground), *keep_one)
    assert [path.name for path in (copied / "checkpoints").iterdir()] == ["step_000004"]


def test_a_run_that_a_rule_stopped_stays_stopped(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    early = settings(playground, train__stop_when='["searches < 99 for 2"]')
    tspo("train", "tiny/tspo", "--out", run, *early)
    status = read_json(run / "status.json")
    assert (status["state"], status["step"]) == ("finished", 2)
    assert "searches" in status["stopped_early"]
    say_running(run)
    tspo("train", "tiny/tspo", "--out", run, "--resume", *early)
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2]
    again = read_json(run / "status.json")
    assert (again["state"], again["step"]) == ("finished", 2)
    assert again["stopped_early"] == status["stopped_early"]


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"step": 3}', '{"step": "3", "value": 1}', '{"step": 3, "value": null}']
)
def test_a_damaged_record_of_the_best_policy_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text(text)
    with pytest.raises(InvalidInputError, match=r"best\.json: damaged .* delete"):
        forget_later(tmp_path, 4, {})
