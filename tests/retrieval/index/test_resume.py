"""A dense build that is killed goes on, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import StartedTspo
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.index.verify_index import verify_index

PASSAGES, SHARD = 1500, 50


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(0)
    words = [
        "river",
        "violin",
        "planet",
        "bread",
        "castle",
        "whale",
        "engine",
        "lake",
        "moon",
        "tower",
    ]
    path = tmp_path_factory.mktemp("resume") / "corpus.jsonl"
    with open(path, "w") as handle:
        for number in range(PASSAGES):
            text = " ".join(draw.choices(words, k=draw.randint(1, 30)))
            handle.write(json.dumps({"id": str(number), "contents": f'"{number}"\n{text}'}) + "\n")
    return path


def _command(corpus: Path, out: Path, encoder: str) -> list[str]:
    options = [
        "--kind",
        "dense",
        "--encoder",
        encoder,
        "--set",
        f"shard_size={SHARD}",
        "--set",
        "rescore=float16",
    ]
    return [
        "index",
        "build",
        str(corpus),
        "--out",
        str(out),
        *options,
    ]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _shards(out: Path) -> dict[str, float]:
    return {
        path.name: path.stat().st_mtime_ns
        for path in out.parent.glob(f".{out.name}.build/shards/*.npy")
    }


def test_killed_builds_go_on_and_end_with_the_same_bytes(
    corpus: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    settings = {"shard_size": SHARD, "rescore": "float16"}
    build_index(corpus, tmp_path / "whole", kind="dense", encoder=tiny_encoder, settings=settings)
    out = tmp_path / "killed"
    for wanted in (3, 9):
        process = StartedTspo(*_command(corpus, out, tiny_encoder))
        before = _shards(out)
        while len(_shards(out)) < wanted and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.wait()
        after = _shards(out)
        # What was there has not been written again.
        assert before.items() <= after.items()
        assert not out.exists()
        assert len(after) >= wanted
    # A shard with other bytes than its name says, as a failing disk leaves it, is encoded again.
    shard = min((tmp_path / ".killed.build" / "shards").glob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    build_index(corpus, out, kind="dense", encoder=tiny_encoder, settings=settings)
    assert _bytes(out) == _bytes(tmp_path / "whole")
    assert not (tmp_path / ".killed.build").exists()
    assert verify_index(out)["files"] == 4


@pytest.mark.parametrize(
    ("kind", "stride", "more"), [("bm25", 1, ()), ("hybrid", 5, ()), ("hybrid", 13, ("overwrite",))]
)
def test_a_build_goes_on_from_a_kill_at_any_step(
    kind: str, stride: int, more: tuple[str, ...], corpus: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(corpus.read_text().splitlines(keepends=True)[:40]))
    settings = {} if kind == "bm25" else {"shard_size": 20, "rescore": "float16"}
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("kill_every_step.py"),
            few,
            tmp_path,
            kind,
            "" if kind == "bm25" else tiny_encoder,
            json.dumps(settings),
            str(stride),
            *more,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]),
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["different"] == []
    assert found["killed"] >= (20 if kind == "bm25" else 5)


def test_another_build_does_not_go_on_with_the_work(
    corpus: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    process = StartedTspo(*_command(corpus, out, tiny_encoder))
    while not _shards(out) and process.poll() is None:
        time.sleep(0.002)
    with pytest.raises(InvalidInputError, match="another process is building"):
        build_index(corpus, out, kind="dense", encoder=tiny_encoder)
    process.kill()
    process.wait()
    with pytest.raises(
        InvalidInputError,
        match="unfinished build with another corpus, encoder or encoding",
    ):
        build_index(corpus, out, kind="dense", encoder=tiny_encoder, settings={"max_length": 9})
    assert _shards(out)
    build_index(
        corpus, out, kind="dense", encoder=tiny_encoder, settings={"max_length": 9}, overwrite=True
    )
    assert open_index(out).manifest["parameters"]["max_length"] == 9


def test_damaged_work_of_a_killed_build_is_made_again(
    corpus: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    """The same command failed for ever."""
    out, work = tmp_path / "index", tmp_path / ".index.build"
    process = StartedTspo(*_command(corpus, out, tiny_encoder), "--skip-duplicates")
    while not _shards(out) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    settings = {"shard_size": SHARD, "rescore": "float16"}
    build = partial(build_index, corpus, out, kind="dense", encoder=tiny_encoder, settings=settings)
    for state in ((work / "state.json").read_text(), "{"):
        with pytest.raises(InvalidInputError, match="holds an unfinished build with another"):
            build()  # which would refuse passages that were left out
        (work / "state.json").write_text(state)
    before = _shards(out)
    (work / "state.json").unlink()
    with pytest.raises(InvalidInputError, match="--overwrite to remove it"):
        build(skip_duplicates=True)
    assert _shards(out) == before
    build(skip_duplicates=True, overwrite=True)
    assert verify_index(out)["files"] == 4


def test_damaged_passages_of_a_killed_build_are_written_again(
    corpus: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    out, work = tmp_path / "index", tmp_path / ".index.build"
    process = StartedTspo(*_command(corpus, out, tiny_encoder))
    while not _shards(out) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    (work / "index" / "passages.jsonl").write_bytes(b"{}")
    settings = {"shard_size": SHARD, "rescore": "float16"}
    build = partial(build_index, corpus, out, kind="dense", encoder=tiny_encoder, settings=settings)
    with pytest.raises(InvalidInputError, match="build the index again"):
        build()
    assert _shards(out)
    build()
    assert verify_index(out)["files"] == 4


def test_vectors_outlive_an_index_that_could_not_be_made(
    corpus: Path, tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, out = tmp_path / "few.jsonl", tmp_path / "index"
    few.write_text("".join(corpus.read_text().splitlines(keepends=True)[:40]))
    with pytest.raises(InvalidInputError, match="setting factory"):
        build_index(
            few, out, kind="hybrid", encoder=tiny_encoder, settings={"factory": "IVF64,SQ8"}
        )
    capsys.readouterr()
    build_index(few, out, kind="dense", encoder=tiny_encoder, settings={"factory": "SQ8"})
    assert "40 from an earlier build" in capsys.readouterr().err
    build_index(
        few, tmp_path / "whole", kind="dense", encoder=tiny_encoder, settings={"factory": "SQ8"}
    )
    assert _bytes(out) == _bytes(tmp_path / "whole")
