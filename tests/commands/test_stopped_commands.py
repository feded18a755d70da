"""A command that is stopped ends soon, with a code that is documented; what it says of itself is
true, nothing is left behind, and the same command goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_prepared
from tspo_cli.disk import has_writer

Tspo = Callable[..., Finished]
LONGEST = 5.0


def stopped(moment: str, *command: object, stamp: Path) -> tuple[int, str]:
    """Exit code and messages of a command that gets a signal; it ends within `LONGEST` seconds."""
    act = f"tests.commands.stops:{moment}:{stamp}"
    (code,), said = run_prepared(act, *command, timeout=300)
    assert time.time() - float(stamp.read_text()) < LONGEST
    assert "Traceback" not in said
    return code, said


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole_index(
    playground: Playground, tspo: Tspo, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("whole") / "index"
    tspo("index", "build", playground.world / "corpus.jsonl", "--out", out)
    return out


@pytest.mark.parametrize(
    ("name", "code", "number"),
    [("SIGTERM", 143, 1), ("SIGINT", 130, 3), ("SIGHUP", 129, 6), ("SIGUSR1", 138, 9)],
)
def test_an_index_build(
    playground: Playground,
    whole_index: Path,
    tspo: Tspo,
    tmp_path: Path,
    name: str,
    code: int,
    number: int,
) -> None:
    place = tmp_path / "here"
    place.mkdir()
    command = ("index", "build", playground.world / "corpus.jsonl", "--out", place / "index")
    moment = f"at_write:{place}:{number}:{name}"
    assert stopped(moment, *command, stamp=tmp_path / "stamp")[0] == code
    assert not (place / "index").exists(), "half an index has no name"
    tspo(*command)
    assert contents(place / "index") == contents(whole_index)
    assert [path.name for path in place.iterdir() if path.is_dir()] == ["index"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code", "number"), [("SIGTERM", 143, 4), ("SIGUSR1", 138, 9)])
def test_an_evaluation(
    playground: Playground, tspo: Tspo, tmp_path: Path, name: str, code: int, number: int
) -> None:
    data = ("--data", playground.world / "test.jsonl", "--index", playground.index, "--limit", 12)
    sizes = ("--set", "eval.portion=3", "--set", "rollout.max_new_tokens=16")
    command = ("eval", playground.model, *data, *sizes, "--out")
    tspo(*command, tmp_path / "whole")
    out = tmp_path / "out"
    moment = f"at_write:{out}:{number}:{name}"
    assert stopped(moment, *command, out, stamp=tmp_path / "stamp")[0] == code
    assert not (out / "eval.json").exists(), "no summary of half an evaluation"
    assert not has_writer(out)
    tspo(*command, out, "--resume")
    for file in ("world.json", "world.items.jsonl.gz"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
