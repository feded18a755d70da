"""Colleagues on a shared file system can read what a run writes: files follow the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import Playground
from tspo_cli.config.load_config import write_resolved
from tspo_cli.config.schema import Config
from tspo_cli.disk import follow_umask
from tspo_cli.models.load_model import load_model
from tspo_cli.models.lora import add_lora, save_adapter


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_file_and_a_folder_follow_the_umask(umask: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"weight": torch.zeros(2)}, tmp_path / name)
        (tmp_path / name).chmod(0o600)
    follow_umask(tmp_path / "a")
    assert modes(tmp_path) == {"a": 0o666 & ~umask, "b": 0o600}
    follow_umask(tmp_path)
    assert modes(tmp_path) == {"a": 0o666 & ~umask, "b": 0o666 & ~umask}


def test_adapters_follow_the_umask(umask: int, playground: Playground, tmp_path: Path) -> None:
    config = Config.model_validate({"lora": {"rank": 2}})
    model = load_model(playground.model)
    add_lora(model, config.lora, 0)
    save_adapter(model.named_parameters(), config.lora, config.model, tmp_path)
    assert len(modes(tmp_path)) > 1
    assert set(modes(tmp_path).values()) == {0o666 & ~umask}


@pytest.mark.parametrize(
    ("url", "is_secret"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://user:pw@127.0.0.1:8000", True),
        ("http://127.0.0.1:8000/?token=abc", True),
        ("https://h/x?api_key=abc&k=3", True),
    ],
)
def test_a_configuration_with_a_login_is_for_its_owner_alone(
    umask: int, tmp_path: Path, url: str, is_secret: bool
) -> None:
    for _ in range(2):  # also in the place of an earlier one
        write_resolved(Config.model_validate({"retriever": {"url": [url]}}), tmp_path)
        found = modes(tmp_path)
        expected = 0o600 if is_secret else 0o666 & ~umask
        assert {found["config.toml"], found["config.resolved.json"]} == {expected}
        write_resolved(Config(), tmp_path)
        assert modes(tmp_path)["config.toml"] == 0o666 & ~umask


def test_everything_of_a_run_can_be_read_by_others(playground: Playground) -> None:
    umask = os.umask(0)
    os.umask(umask)
    found = modes(playground.model.parents[1])
    assert any("checkpoints/" in name for name in found)
    assert any(name.endswith("model/model.safetensors") for name in found)
    assert {name: mode for name, mode in found.items() if mode != 0o666 & ~umask} == {}
