"""Weights for servers: each process writes a part, in memory where that has room."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tspo_cli.rollout.engines.vllm_engine.weight_files import WeightFiles
from tspo_cli.shares import shares

WEIGHTS = {f"layer.{number}": torch.full((3, number + 1), float(number)) for number in range(7)}


def files(tmp_path: Path, rank: int = 0, world_size: int = 1, **more: object) -> WeightFiles:
    options: dict[str, object] = {"in_memory": True, "memory": tmp_path / "memory"}
    wait: Callable[[], None] = lambda: None  # noqa: E731
    options |= {"rank": rank, "world_size": world_size, "barrier": wait} | more
    (tmp_path / "memory").mkdir(exist_ok=True)
    return WeightFiles(tmp_path / "run", "abc", **options)  # type: ignore[arg-type]


def read(folder: Path) -> dict[str, torch.Tensor]:
    parts = [load_file(path) for path in folder.glob("*.safetensors")]
    assert sum(map(len, parts)) == len(set().union(*parts)), "each weight is written once"
    return {name: value for part in parts for name, value in part.items()}


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_parts_have_every_weight_once(count: int) -> None:
    parts = shares({name: tensor.nbytes for name, tensor in WEIGHTS.items()}, count)
    assert sorted(name for part in parts for name in part) == sorted(WEIGHTS)
    sizes = [sum(WEIGHTS[name].nbytes for name in part) for part in parts]
    assert max(sizes) - min(sizes) <= max(tensor.nbytes for tensor in WEIGHTS.values())


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_all_processes_write_one_version(tmp_path: Path, count: int, in_memory: bool) -> None:
    barrier = threading.Barrier(count)
    made = [
        files(tmp_path, rank, count, barrier=barrier.wait, in_memory=in_memory)
        for rank in range(count)
    ]
    for version in ("1", "2"):
        threads = [threading.Thread(target=one.write, args=(WEIGHTS, version)) for one in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        folder = made[0].of(version)
        assert {one.of(version) for one in made} == {folder}
        assert folder.is_relative_to(tmp_path / ("memory" if in_memory else "run"))
        assert len([*folder.iterdir()]) == count
        found = read(folder)
        assert found.keys() == WEIGHTS.keys()
        assert all(found[name].equal(WEIGHTS[name]) for name in WEIGHTS)
    made[0].keep_only("2")
    assert [path.name for path in folder.parent.glob("version_*")] == ["version_2"]
    for one in made:
        one.close()
    assert [*(tmp_path / "memory").iterdir()] == []
    assert folder.exists() != in_memory


def test_weights_in_memory_are_for_this_user_alone(tmp_path: Path) -> None:
    made = files(tmp_path)
    made.write(WEIGHTS, "1")
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700


def test_memory_without_room_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a container's, which often has 64 MB; and none at all."""
    size = sum(tensor.nbytes for tensor in WEIGHTS.values())
    module = "tspo_cli.rollout.engines.vllm_engine.weight_files.shutil.disk_usage"
    monkeypatch.setattr(module, lambda path: SimpleNamespace(free=2 * size))
    made = files(tmp_path)
    made.write(WEIGHTS, "1")
    assert made.of("1").parent == tmp_path / "run"
    nowhere = files(tmp_path, memory=tmp_path / "nowhere")
    nowhere.write(WEIGHTS, "2")
    assert nowhere.of("2").parent == tmp_path / "run"


def test_what_killed_runs_left_in_memory_is_deleted(tmp_path: Path) -> None:
    """That of a run that still goes on stays, and so does what no run made."""
    user = os.getuid()
    memory = tmp_path / "memory"
    for name, owner in (("dead", "999999999"), ("alive", str(os.getpid())), ("abc", "999999999")):
        (memory / f"tspo-{user}-{name}" / "version_1").mkdir(parents=True)
        (memory / f"tspo-{user}-{name}" / "owner").write_text(owner)
    (memory / f"tspo-{user}-other").mkdir()
    made = files(tmp_path)
    made.write(WEIGHTS, "5")
    assert {path.name for path in memory.iterdir()} == {
        f"tspo-{user}-{name}" for name in ("alive", "abc", "other")
    }
    assert [path.name for path in made.folder.glob("version_*")] == ["version_5"]


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_place_that_someone_else_took_is_not_used(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "memory" / f"tspo-{os.getuid()}-abc"
    place.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "owner").write_text("1")
    if kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
    made = files(tmp_path)
    made.write(WEIGHTS, "1")
    assert made.of("1").parent == tmp_path / "run"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["owner"]
