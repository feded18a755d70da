"""An exported model gets its name when all of its files are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Playground, run_prepared

pytestmark = pytest.mark.slow
AGENT, BEST, ADAPTER = "tspo_agent.json", "best.json", "adapter_config.json"


MOMENTS = [
    ("best", AGENT, 1),
    ("best", ADAPTER, 1),
    ("best", BEST, 1),
    ("model", AGENT, 2),
    ("adapter", ADAPTER, 2),
]
"""A folder, and the file with its number in the run at which the process is killed."""


@pytest.mark.parametrize(("folder", "name", "number"), MOMENTS)
def test_an_export_that_is_killed_leaves_no_half_of_a_model(
    playground: Playground, tmp_path: Path, folder: str, name: str, number: int
) -> None:
    """Without its agent file, a model would be evaluated with another prompt."""
    sizes = {"train__steps": 1, "eval__every": 5, "eval__limit": 2, "lora__rank": 2}
    words = ["train", "tiny/grpo", "--out", "run", *playground.settings(**sizes)]
    act = f"tests.training.launch.moments:kill_before:{name}:{number}"
    codes, said = run_prepared(act, *words, cwd=tmp_path)
    assert codes == [-9], said
    assert not (tmp_path / "run" / folder).exists()
