"""Checkpoints in parts whose index asks for more than there is: refused before memory is taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import write_json
from tspo_cli.training.core.checkpoints.checkpoint import check_checkpoint
from tspo_cli.training.core.checkpoints.checkpoint_files import part_names, write_tensors
from tspo_cli.training.core.optimizer_state import MOMENTS


def checkpoint(folder: Path, shape: list[int], **index: Any) -> Path:
    """The parts of two processes, three numbers each, of a parameter of this shape."""
    folder.mkdir()
    for rank, name in enumerate(part_names("state", 2)):
        keys = ("param", *MOMENTS)
        write_tensors(folder / name, {f"{key}.w:{3 * rank}": torch.ones(3) for key in keys})
    shapes = {"state": {"w": shape}}
    write_json(
        folder / "state.json", {"updates": 1, "extra": {}, "parts": 2, "shapes": shapes} | index
    )
    return folder


def test_parts_are_joined(tmp_path: Path) -> None:
    check_checkpoint(checkpoint(tmp_path / "c", [2, 3]))


@pytest.mark.parametrize("shape", [[5], [7], [2**50], [2**50, 2**50], [0]], ids=repr)
def test_a_shape_that_the_parts_do_not_fill_is_refused(tmp_path: Path, shape: list[int]) -> None:
    folder = checkpoint(tmp_path / "c", shape)
    with pytest.raises(InvalidInputError, match=r"param\.w has 6 of [\d,]+ numbers"):
        check_checkpoint(folder)


def test_parts_beyond_all_measure_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c", [6], parts=2**52)
    with pytest.raises(InvalidInputError, match=re.escape("does not describe a checkpoint")):
        check_checkpoint(folder)


@pytest.mark.parametrize("place", ["", "²", "-1", "x", 5000 * "9"])
def test_parts_without_a_place_are_refused(tmp_path: Path, place: str) -> None:
    folder = checkpoint(tmp_path / "c", [2, 3])
    tensors = {f"{key}.w:{place}": torch.ones(3) for key in ("param", *MOMENTS)}
    write_tensors(folder / part_names("state", 2)[1], tensors)
    with pytest.raises(InvalidInputError, match="has no place"):
        check_checkpoint(folder)
