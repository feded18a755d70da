"""What was changed in a run directory after it was written is named, even if it could be true."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.digests import json_digest
from tspo_cli.record_digests import DIGESTS_NAME
from tspo_cli.runs import read_jsonl

pytestmark = pytest.mark.slow
Tspo = Callable[..., Finished]
EVALUATION, ROLLOUTS = "eval/step_000002/world", "rollouts/step_000002.jsonl.gz"


def settings(playground: Playground) -> list[str]:
    return playground.settings(
        train__steps=2,
        checkpoint__every=1,
        eval__every=2,
        eval__at_start="false",
        eval__limit=4,
        train__export_model="false",
        checkpoint__best="none",
    )


@pytest.fixture(scope="module")
def trained(playground: Playground, tspo: Tspo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    tspo("train", "tiny/tspo", "--out", run, *settings(playground))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the record, or the first of several."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    first, rest = text.split("\n", 1) if ".jsonl" in path.name else (text, "")
    record = json.loads(first)
    change(record)
    text = json.dumps(record) + ("\n" + rest if rest else "")
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def replace(file: str, old: str, new: str) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        text = (run / file).read_text()
        assert old in text
        (run / file).write_text(text.replace(old, new, 1))

    return change


def put(file: str, **values: Any) -> Callable[[Path], object]:
    return lambda run: edit(run / file, lambda record: record.update(values))


def other_answer(run: Path) -> None:
    def change(record: Any) -> None:
        record["trajectories"][0]["outcome"] = 1.0

    edit(run / ROLLOUTS, change)


REPORT = ("report", "{}", "--json")
EVERYTHING = ("report", "{}", "--table", "all")
CHANGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "a better score": (put(f"{EVALUATION}.json", em=0.75), REPORT, f"{EVALUATION}.json"),
    "a better answer": (
        put(f"{EVALUATION}.items.jsonl.gz", em=1.0),
        ("inspect", "{}", "--eval"),
        f"{EVALUATION}.items.jsonl.gz",
    ),
    "a better reward": (put("metrics.jsonl", reward=0.9), EVERYTHING, "metrics.jsonl"),
    "a shorter time": (
        put("timings.jsonl", total=0.001),
        EVERYTHING,
        "timings.jsonl",
    ),
    "another rollout": (other_answer, ("credit", "{}"), ROLLOUTS),
    "another command": (
        replace("command.txt", "tspo train", "tspo train --set seed=7"),
        ("runs", "show", "{}"),
        "command.txt",
    ),
    "another setting": (
        replace("config.resolved.json", '"seed": 0', '"seed": 7'),
        ("runs", "ls", "{}"),
        "config.resolved.json",
    ),
    "another machine": (
        replace("env.json", '"cpu_count": ', '"cpu_count": 9'),
        ("runs", "show", "{}"),
        "env.json",
    ),
    "another state": (put("status.json", warnings=["x"]), REPORT, "status.json"),
    "a step more": (
        lambda run: (run / "metrics.jsonl").open("a").write('{"step": 3, "reward": 1.0}\n'),
        EVERYTHING,
        "metrics.jsonl",
    ),
    "scores that are gone": (
        lambda run: (run / f"{EVALUATION}.json").unlink(),
        REPORT,
        f"{EVALUATION}.json",
    ),
    "an environment that is gone": (lambda run: (run / "env.json").unlink(), REPORT, "env.json"),
    "rollouts that are gone": (
        lambda run: (run / ROLLOUTS).unlink(),
        ("inspect", "{}"),
        ROLLOUTS,
    ),
    "a damaged digest": (
        replace(DIGESTS_NAME, '"bytes"', '"size"'),
        REPORT,
        f"{DIGESTS_NAME}:1",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_in_one_line_and_listed(run: Path, name: str) -> None:
    change, command, file = CHANGES[name]
    change(run)
    done = run_tspo(*[word.replace("{}", str(run)) for word in command])
    assert done.code == 3, done.out
    assert "Traceback" not in done.err
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {run / file}:")
    assert "put back a copy, or delete" in error
    found = run_tspo("doctor", run, "--json")
    assert found.code == 1
    findings = json.loads(found.out)["findings"]
    (problem,) = [line["detail"] for line in findings if line["state"] == "problem"]
    assert problem.startswith(f"{run / file}:")


@pytest.mark.parametrize("file", ["config.toml", "inputs.json"])
def test_what_only_resume_reads_is_listed_by_doctor(run: Path, file: str) -> None:
    (run / file).write_text((run / file).read_text() + "\n")
    assert "differs from its digest" in run_tspo("doctor", run).out


def test_a_changed_run_is_not_resumed(run: Path, playground: Playground) -> None:
    put("metrics.jsonl", reward=0.9)(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    longer = [*settings(playground), "--set", "train.steps=3"]
    done = run_tspo("train", "tiny/tspo", "--out", run, "--resume", *longer)
    assert done.code == 3
    assert "metrics.jsonl: differs from its digest" in done.err
    assert (run / "metrics.jsonl").read_bytes() == before[run / "metrics.jsonl"]


@pytest.mark.parametrize(
    "file",
    [
        *("inputs.json", "metrics.jsonl", "status.json", "env.json", "config.toml"),
        *(ROLLOUTS, f"{EVALUATION}.json"),
    ],
)
def test_a_run_that_lacks_a_record_is_not_resumed(
    run: Path, playground: Playground, file: str
) -> None:
    """Without inputs.json, other questions would go on with it."""
    (run / file).unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    longer = [*settings(playground), "--set", "train.steps=3"]
    for also in ((), ("--dry-run",)):
        done = run_tspo("train", "tiny/tspo", "--out", run, "--resume", *longer, *also)
        (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert done.code == 3
        assert error.startswith(f"error: {run / file}: is missing")
        assert "put back a copy, or delete" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def of_another_run(folder: Path) -> None:
    """As if the checkpoint had come from a run with another seed, whose model has the same form."""
    index = json.loads((folder / "state.json").read_text())
    index["extra"]["experiment"] = "0" * 16
    index.pop("sha256")
    (folder / "state.json").write_text(json.dumps({**index, "sha256": json_digest(index)}))


def test_checkpoints_of_another_run_are_not_taken(
    run: Path, playground: Playground, tspo: Tspo
) -> None:
    longer = [*settings(playground), "--set", "train.steps=3", "--set", "checkpoint.keep=9"]
    words = ["train", "tiny/tspo", "--out", run, "--resume", *longer]
    newest, older = run / "checkpoints/step_000002", run / "checkpoints/step_000001"
    shutil.copytree(newest, older, dirs_exist_ok=True)
    for folder in (older, newest):
        of_another_run(folder)
    assert "is a checkpoint of another run" in run_tspo("doctor", run).out
    done = run_tspo(*words)
    assert done.code == 3
    assert f"{newest}: is a checkpoint of another run" in done.err
    (run / "inputs.json").write_text("{}")
    (run / DIGESTS_NAME).unlink()
    tspo(*words)  # nobody knows what it began with
    index = json.loads((run / "checkpoints/step_000003/state.json").read_text())
    assert index["extra"] == {"step": 3}


def test_without_digests_a_run_is_read_and_doctor_says_so(run: Path) -> None:
    put(f"{EVALUATION}.json", em=0.75)(run)
    for path in run.rglob(DIGESTS_NAME):
        path.unlink()
    done = run_tspo("report", run, "--json")
    assert done.code == 0
    assert "0.75" in done.out
    said = run_tspo("doctor", run).out
    for folder in (run, run / "rollouts", run / "eval/step_000002"):
        assert f"{folder} has none, so a changed value there would not be noticed" in said


@pytest.mark.parametrize("folder", ["rollouts", "eval/step_000002"])
def test_doctor_names_the_records_whose_digests_were_cut_off(run: Path, folder: str) -> None:
    digests = run / folder / DIGESTS_NAME
    digests.write_text(digests.read_text().splitlines()[0] + "\n")
    said = run_tspo("doctor", run).out
    assert f"note     digests         {run / folder} has none for 1 of its files, " in said


def test_a_killed_run_may_have_lines_without_a_digest(
    run: Path, playground: Playground, tspo: Tspo
) -> None:
    """As after a kill within step 3 of 4: a line more, and a status that nobody sealed."""
    lines = (run / DIGESTS_NAME).read_text().splitlines()
    grows = [line for line in lines if '"grows"' in line]
    others = [line for line in lines if "grows" not in line and "status" not in line]
    settled = [line for line in others if "metrics" not in line and "timings" not in line]
    (run / DIGESTS_NAME).write_text("\n".join([*settled, *grows, '{"file": "torn']))
    put("status.json", state="running")(run)
    for name in ("metrics.jsonl", "timings.jsonl"):
        with open(run / name, "a") as handle:
            handle.write('{"step": 3, "reward": 0.5, "total": 1.0}\n{"step": 4, "rew')
    assert run_tspo("report", run, "--json").code == 0
    longer = [*settings(playground), "--set", "train.steps=3"]
    tspo("train", "tiny/tspo", "--out", run, "--resume", *longer)
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3]
    assert run_tspo("doctor", run).code == 0


def test_a_finished_run_has_a_digest_of_each_record(run: Path) -> None:
    found = {
        str(path.parent.relative_to(run) / record["file"])
        for path in run.rglob(DIGESTS_NAME)
        for record in read_jsonl(path)
    }
    records = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    left = {name for name in records - found if not name.startswith(("checkpoints/", "logs/"))}
    assert left == {".lock"} | {name for name in records if name.endswith(DIGESTS_NAME)}
