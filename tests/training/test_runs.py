"""Training runs as a user starts, stops and continues them."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import Finished, Playground, StartedTspo, run_tspo
from tspo_cli.evaluation.statistics.estimates import estimate_share
from tspo_cli.runs import (
    checkpoint_folders,
    checkpoint_step,
    read_json,
    read_jsonl,
    read_jsonl_gz,
    set_status,
)

pytestmark = pytest.mark.slow
Tspo = Callable[..., Finished]
STEPS = 6


@pytest.fixture(scope="module")
def finished(
    playground: Playground, tspo: Tspo, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    run = tmp_path_factory.mktemp("runs") / "straight"
    done = tspo("train", "--json", "tiny/tspo", "--out", run, *settings(playground))
    return run, json.loads(done.out)


def settings(playground: Playground, **more: object) -> list[str]:
    return playground.settings(
        **{"train__steps": STEPS, "checkpoint__every": 2, "eval__every": 3, **more}
    )


def test_a_run_leaves_everything_that_the_readme_promises(finished: tuple[Path, Any]) -> None:
    run, summary = finished
    assert summary["state"] == "finished"
    assert summary["step"] == STEPS
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert [row["step"] for row in read_jsonl(run / "timings.jsonl")] == list(range(1, STEPS + 1))
    assert [path.name for path in sorted((run / "eval").iterdir())] == [
        "step_000000",
        "step_000003",
        "step_000006",
    ]
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == [
        "step_000004",
        "step_000006",
    ]
    for name in ("config.toml", "env.json", "command.txt", "logs/attempt_1.log"):
        assert (run / name).stat().st_size
    scores = read_json(run / "eval" / "step_000006" / "world.json")
    items = list(read_jsonl_gz(run / "eval" / "step_000006" / "world.items.jsonl.gz"))
    assert scores["n"] == len(items) == 6
    share = estimate_share([item["f1"] for item in items])
    assert (scores["f1_low"], scores["f1_high"], scores["f1_se"]) == (
        share.low,
        share.high,
        share.se,
    )
    assert scores["em_low"] <= scores["em"] <= scores["em_high"]
    assert scores == summary["eval"][0]
    assert all(item["trajectory"]["turns"] for item in items)


def test_rollouts_explain_their_credit(finished: tuple[Path, Any]) -> None:
    for path in (finished[0] / "rollouts").glob("*.jsonl.gz"):
        groups = list(read_jsonl_gz(path))
        assert len(groups) == 4
        for group in groups:
            assert len(group["trajectories"]) == 3
            for rollout in group["trajectories"]:
                assert (
                    len(rollout["turns"])
                    == len(rollout["advantages"])
                    == len(rollout["turn_rewards"])
                )


def test_metrics_hold_together(finished: tuple[Path, Any]) -> None:
    for row in read_jsonl(finished[0] / "metrics.jsonl"):
        classes = ("all_correct", "mixed", "all_wrong_near_miss", "all_miss")
        assert sum(row[f"groups/{name}"] for name in classes) == pytest.approx(1)
        assert row["parity"] < 1e-4
        assert row["groups/recovered_by_folr"] <= row["groups/zero_signal_grpo"]


def test_the_exported_model_is_a_plain_directory(finished: tuple[Path, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(finished[0] / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished[0] / "model")
    assert model.config.vocab_size == len(tokenizer)


def contents(run: Path) -> dict[str, bytes]:
    """All files that have to be the same, by name."""
    kept = ("metrics.jsonl", "model/*", "rollouts/*", "eval/*/*", "checkpoints/*/*")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for pattern in kept
        for path in sorted(run.glob(pattern))
    }


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    playground: Playground, finished: tuple[Path, Any], tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    arguments = ["train", "tiny/tspo", "--out", str(run), *settings(playground)]
    process = StartedTspo(*arguments)
    while len(read_jsonl(run / "metrics.jsonl")) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    listed = run_tspo("runs", "ls", tmp_path, "--json")
    assert json.loads(listed.out)["runs"][0]["state"] == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    listed = run_tspo("runs", "ls", tmp_path, "--json")
    assert json.loads(listed.out)["runs"][0]["state"] == "killed"
    before = len(read_jsonl(run / "metrics.jsonl"))
    assert before < STEPS
    kept = checkpoint_step(checkpoint_folders(run)[-1])
    assert run_tspo(*arguments).code == 3, "a used run directory must be refused"
    assert len(read_jsonl(run / "metrics.jsonl")) == before
    resumed = run_tspo(*arguments, "--resume")
    assert resumed.code == 0, resumed.err
    assert f"resume after step {kept}" in resumed.err
    wanted, found = contents(finished[0]), contents(run)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if wanted[name] != found[name]] == []
    assert len((run / "command.txt").read_text().splitlines()) == 2


def test_resuming_another_experiment_is_refused(
    playground: Playground, finished: tuple[Path, Any]
) -> None:
    other = settings(playground, credit__alpha=0.25)
    for flags in (["--resume"], ["--resume", "--dry-run"]):
        done = run_tspo("train", "tiny/tspo", "--out", finished[0], *other, *flags)
        assert done.code == 3
        assert "credit.alpha (was 0.5, now 0.25)" in done.err
        assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_refused_attempt_leaves_the_run_as_it_was(
    playground: Playground, finished: tuple[Path, Any], tmp_path: Path, processes: int
) -> None:
    """Inputs are compared by the processes that train."""
    run, questions = tmp_path / "run", tmp_path / "train.jsonl"
    shutil.copytree(finished[0], run)
    set_status(run, "stopped", STEPS, 1)
    lines = (playground.world / "train.jsonl").read_text().splitlines(keepends=True)
    questions.write_text("".join(lines[1:]))
    values = {"data__train": json.dumps([str(questions)]), "train__steps": STEPS + 1}
    other = settings(playground, train__processes=processes, **values)
    before = everything(run)
    done = run_tspo("train", "tiny/tspo", "--out", run, *other, "--resume")
    assert done.code == 3, done.err
    assert "it began with other training questions" in done.err
    assert everything(run) == before


def everything(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()
    }


def test_what_a_cluster_changes_does_not_make_another_experiment(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    """Another mount, another layout of memory, another limit: the run goes on and says what
    changed. Other contents at the new place are refused.
    """
    run, mount = tmp_path / "run", tmp_path / "mount"
    command = ["train", "tiny/tspo", "--out", run]
    tspo(*command, *settings(playground, train__steps=2, eval__every=0))
    shutil.copytree(playground.index, mount / "index")
    shutil.copytree(playground.model, mount / "model")
    shutil.copy(playground.world / "train.jsonl", mount / "train.jsonl")
    moved = {
        "train__steps": 3,
        "eval__every": 0,
        "retriever__index": mount / "index",
        "model__path": mount / "model",
        "data__train": json.dumps([str(mount / "train.jsonl")]),
        "deepspeed__zero_stage": 1,
        "train__tokens_per_micro_batch": 300,
        "train__gradient_checkpointing": "true",
        "rollout__batch_size": 3,
        "rollout__turn_deadline": 33,
    }
    done = tspo(*command, *settings(playground, **moved), "--resume")
    assert "resumed with other settings: " in done.err
    assert "rollout.turn_deadline (was 120.0, now 33.0)" in done.err
    (change,) = read_jsonl(run / "changes.jsonl")
    assert (change["attempt"], change["step"]) == (2, 2)
    assert change["changes"]["deepspeed.zero_stage"] == [0, 1]
    assert "rollout.turn_deadline" in (run / "logs" / "attempt_2.log").read_text()
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3]

    questions = (mount / "train.jsonl").read_text().splitlines(keepends=True)
    (mount / "train.jsonl").write_text("".join(questions[1:]))
    again = run_tspo(*command, *settings(playground, **moved | {"train__steps": 4}), "--resume")
    assert again.code == 3
    assert "it began with other training questions" in again.err
    other = settings(playground, **moved | {"rollout__temperature": 0.5})
    refused = run_tspo(*command, *other, "--resume")
    assert "holds another experiment: rollout.temperature (was 1.0, now 0.5)" in refused.err


def test_an_attempt_without_a_model_binds_nobody(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    place, run = tmp_path / "model", tmp_path / "run"
    steps = {"train__steps": 1, "eval__every": 0, "eval__at_start": "false"}
    command = (
        "train",
        "tiny/tspo",
        "--out",
        run,
        *settings(playground, model__path=place, **steps),
    )
    assert run_tspo(*command).code == 4
    shutil.copytree(playground.model, place)
    tspo(*command, "--resume")
    config = read_json(place / "config.json")
    (place / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    again = run_tspo(*command, "--resume", "--set", "train.steps=2")
    assert (again.code, "it began with other starting model" in again.err) == (3, True)


def test_a_finished_run_can_be_prolonged(
    playground: Playground, finished: tuple[Path, Any], tspo: Tspo, tmp_path: Path
) -> None:
    run = tmp_path / "short"
    tspo("train", "tiny/tspo", "--out", run, *settings(playground, train__steps=4, eval__every=0))
    tspo("train", "tiny/tspo", "--out", run, "--resume", *settings(playground, eval__every=0))
    assert read_jsonl(run / "metrics.jsonl") == read_jsonl(finished[0] / "metrics.jsonl")
    assert (run / "model/model.safetensors").read_bytes() == (
        finished[0] / "model/model.safetensors"
    ).read_bytes()


def test_two_processes_do_the_same_work(
    playground: Playground, finished: tuple[Path, Any], tspo: Tspo, tmp_path: Path
) -> None:
    """Also where they take questions from each other, one at a time."""
    run = tmp_path / "two"
    done = tspo(
        "train",
        "tiny/tspo",
        "--out",
        run,
        *settings(
            playground,
            train__processes=2,
            deepspeed__zero_stage=2,
            rollout__schedule="dynamic",
            rollout__batch_size=3,
        ),
    )
    assert "Traceback" not in done.err
    first, wanted = (read_jsonl(path / "metrics.jsonl")[0] for path in (run, finished[0]))
    for name in ("reward", "loss", "em", "searches", "tokens", "dropped", "groups/all_miss"):
        assert first[name] == pytest.approx(wanted[name], abs=1e-5), name
    ours, theirs = (
        [item["id"] for item in read_jsonl_gz(path / "eval/step_000000/world.items.jsonl.gz")]
        for path in (run, finished[0])
    )
    assert ours == theirs


def test_zero_3_trains_with_an_engine_of_its_own(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    run = tmp_path / "zero3"
    tspo(
        "train",
        "tiny/grpo",
        "--out",
        run,
        *settings(playground, train__steps=2, deepspeed__zero_stage=3),
    )
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["parity"] < 1e-4 for row in rows] == [True, True]


def test_a_terminated_run_says_so(playground: Playground, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    command = ["train", "tiny/tspo", "--out", run]
    process = StartedTspo(*command, *settings(playground, train__steps=500))
    while not read_jsonl(run / "metrics.jsonl"):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert "Traceback" not in process.said()
    assert read_json(run / "status.json")["state"] == "stopped"


def test_recorded_demonstrations(playground: Playground, tspo: Tspo, tmp_path: Path) -> None:
    """SFT from a file: what the agent wrote, with the passages that it saw."""
    passages = [{"id": "p1", "contents": '"Bako Skuni"\nit was helmed by Mola Gubri.'}]
    turns = [
        {"text": "<think> find </think> <search> Bako Skuni </search>", "passages": passages},
        {"text": "<think> it is found </think> <answer> Mola Gubri </answer>"},
    ]
    file = tmp_path / "demonstrations.jsonl"
    lines = [
        json.dumps({"question": f"who is the director of Bako Skuni {n}?", "turns": turns})
        for n in range(3)
    ]
    file.write_text("\n".join(lines) + "\n")
    options = [
        "--set",
        f'data.demonstrations=["{file}"]',
        "--set",
        "data.world=",
        "--set",
        "eval.data=[]",
    ]
    start = ["--set", f"model.path={playground.model}", "--set", "retriever.index="]
    run = tmp_path / "sft"
    tspo(
        "train",
        "tiny/warmstart",
        "--out",
        run,
        *options,
        *start,
        "--set",
        "train.steps=8",
        "--set",
        "optimizer.lr=1e-3",
    )
    losses = [row["agent_loss"] for row in read_jsonl(run / "metrics.jsonl")]
    assert losses[-1] < losses[0]
