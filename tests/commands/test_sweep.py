"""`tspo sweep` on a small world: real trainings, one of which fails; then the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.disk import one_writer
from tspo_cli.runs import read_json

pytestmark = pytest.mark.slow
Tspo = Callable[..., Finished]


@pytest.fixture(scope="module")
def swept(
    playground: Playground, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Finished]:
    """Two arms and a cell whose model does not exist, trained once: (sweep file, directory, how it
    ended).
    """
    root = tmp_path_factory.mktemp("sweep")
    file, out = root / "few.toml", root / "out"
    file.write_text(
        f"""
base = "tiny/grpo"
seeds = [0]
baseline = "grpo"
[settings]
rollout = {{ max_searches = 2, max_new_tokens = 16, questions_per_step = 3, group_size = 3 }}
optimizer.lr = 1e-3
train.steps = 2
eval = {{ every = 1, limit = 4, data = [{json.dumps(str(playground.world / "test.jsonl"))}] }}
data.train = [{json.dumps(str(playground.world / "train.jsonl"))}]
retriever.index = {json.dumps(str(playground.index))}
model.path = {json.dumps(str(playground.model))}
[arms.grpo]
credit.algorithm = "grpo"
[arms.tspo]
credit.algorithm = "tspo"
[arms.broken]
model.path = {json.dumps(str(root / "gone"))}
"""
    )
    return file, out, run_tspo("sweep", file, "--out", out, "--jobs", 2, "--json")


def test_one_broken_cell_does_not_stop_the_others(swept: tuple[Path, Path, Finished]) -> None:
    _, out, done = swept
    assert done.code == 1
    assert "1 of 3 cells failed" in done.err
    cells = {cell["name"]: cell for cell in json.loads(done.out)["cells"]}
    assert [cells[name]["state"] for name in ("grpo/seed0", "tspo/seed0", "broken/seed0")] == [
        "finished",
        "finished",
        "failed",
    ]
    assert "gone" in cells["broken/seed0"]["error"]
    for arm in ("grpo", "tspo"):
        assert read_json(out / arm / "seed0" / "status.json")["state"] == "finished"
        assert (out / arm / "seed0" / "model").is_dir()


def test_started_again_it_does_what_is_missing(swept: tuple[Path, Path, Finished]) -> None:
    file, out, _ = swept
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/seed0/metrics.jsonl")}
    planned = run_tspo("sweep", file, "--out", out, "--dry-run", "--json")
    assert planned.code == 4, "the broken cell lacks its model"
    assert "error: broken/seed0: " in planned.err
    states = {cell["name"]: cell["state"] for cell in json.loads(planned.out)["cells"]}
    assert (states["grpo/seed0"], states["tspo/seed0"]) == ("finished", "finished")
    assert states["broken/seed0"] != "finished"
    done = run_tspo("sweep", file, "--out", out, "--only", "[gt]*po/*", "--json")
    assert done.code == 0
    assert [cell["seconds"] for cell in json.loads(done.out)["cells"]] == [0.0, 0.0]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_file_of_an_arm_and_its_cell_train_the_same_run(
    swept: tuple[Path, Path, Finished], tspo: Tspo, tmp_path: Path
) -> None:
    file, out, _ = swept
    tspo("sweep", file, "--write-configs", tmp_path / "configs")
    in_sweep = (out / "tspo" / "seed0" / "metrics.jsonl").read_bytes()
    for source in (tmp_path / "configs" / "tspo.toml", f"{file}::tspo"):
        run = tmp_path / "run"
        tspo("train", source, "--set", "seed=0", "--out", run, "--overwrite")
        assert (run / "metrics.jsonl").read_bytes() == in_sweep


def test_a_cell_is_shown_checked_and_planned(
    swept: tuple[Path, Path, Finished], tspo: Tspo
) -> None:
    file, out, _ = swept
    cell = f"{file}::tspo"
    shown = json.loads(tspo("config", "show", cell, "--json").out)
    assert shown["credit"]["algorithm"] == "tspo"
    assert shown == read_json(out / "tspo" / "seed0" / "config.resolved.json")
    assert 'algorithm = "tspo"' in tspo("config", "show", cell).out
    assert tspo("config", "validate", cell).out.startswith("valid")
    assert json.loads(tspo("plan", cell, "--json").out)["steps"] == 2
    assert "ready" in tspo("train", cell, "--dry-run").err
    unknown = run_tspo("train", f"{file}::tpso", "--dry-run")
    assert unknown.code == 3
    assert "did you mean tspo?" in unknown.err


def test_changed_settings_are_refused(swept: tuple[Path, Path, Finished]) -> None:
    file, out, _ = swept
    done = run_tspo("sweep", file, "--out", out, "--set", "optimizer.lr=1e-5")
    assert done.code == 3
    assert "holds another experiment" in done.err


def test_a_sweep_is_reported(swept: tuple[Path, Path, Finished], tspo: Tspo) -> None:
    _, out, _ = swept
    record = json.loads(tspo("report", out, "--json").out)
    assert [group["arm"] for group in record["sweep"]["groups"]] == ["grpo", "tspo"]
    assert record["sweep"]["groups"][1]["delta_em"]["n"] == 1


def test_a_run_is_judged_by_every_algorithm(
    swept: tuple[Path, Path, Finished], tspo: Tspo, tmp_path: Path
) -> None:
    _, out, _ = swept
    run, figure = out / "grpo" / "seed0", tmp_path / "credit.svg"
    record = json.loads(tspo("credit", run, "--json", "--figure", figure).out)
    assert {"grpo", "tspo", "retrieval_bonus", "mt_grpo"} <= set(record["algorithms"])
    assert (record["steps"], record["groups"], record["trajectories"]) == ([1, 2], 6, 18)
    assert "<svg" in figure.read_text()


def test_a_sweep_has_one_writer(swept: tuple[Path, Path, Finished]) -> None:
    file, out, _ = swept
    with one_writer(out, "running this sweep"):
        second = run_tspo("sweep", file, "--out", out)
    assert second.code == 3
    assert "another process is running this sweep" in second.err


def test_a_rule_that_is_edited_between_two_cells_is_refused(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    rule, file, out = tmp_path / "rule.py", tmp_path / "own.toml", tmp_path / "out"
    text = "def rule(group, config):\n    return [[1.0] * len(one.hits) for one in group]\n"
    rule.write_text(text)
    words = playground.settings(
        train__steps=1, train__export_model="false", eval__data="[]", eval__every=0
    )
    file.write_text(
        f'base = "tiny/grpo"\nseeds = [0, 1]\n[arms.own]\ncredit.algorithm = "{rule}:rule"\n'
    )
    tspo("sweep", file, "--out", out, "--only", "*/seed0", *words)
    rule.write_text(text.replace("1.0", "2.0"))
    done = run_tspo("sweep", file, "--out", out, *words)
    assert done.code == 1
    assert "own/seed1: began with other code (credit.algorithm) than" in done.err
    assert not (out / "own" / "seed1" / "metrics.jsonl").exists()
    rule.write_text(text)
    tspo("sweep", file, "--out", out, *words)
