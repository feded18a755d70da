"""What lies somewhere stays whole until its successor stands, has one writer, and a full disk is
one line that names the file.
"""

from __future__ import annotations

import errno
import gzip
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import faiss
import numpy as np
import pytest
from safetensors import SafetensorError

from tests.models.tiny_gguf import write_gguf
from tests.permissions import permissions_count
from tspo_cli import console, disk
from tspo_cli.data import convert as conversion
from tspo_cli.data import readers
from tspo_cli.data.world import generate
from tspo_cli.data.world.generate import make_world
from tspo_cli.data.world.world_config import WorldConfig
from tspo_cli.disk import (
    WriteError,
    has_writer,
    new_directory,
    one_writer,
    reason,
    replace_directory,
    writing,
)
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.resuming.results_folder import results_folder
from tspo_cli.models.convert_gguf import convert_gguf
from tspo_cli.reporting.figure import save_figure
from tspo_cli.retrieval.dense.faiss_files import write_whole
from tspo_cli.retrieval.index import build_index as building
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.import_vectors import import_index
from tspo_cli.runs import read_json, set_status, write_json
from tspo_cli.text.strict_json import json_text
from tspo_cli.training.sft.demonstration_writer import write_demonstrations

NO_ROOM = "No space left on device"
WORLD = WorldConfig(entities=60, test_entities=40, train_questions=40, test_questions=20)


def test_an_error_names_what_was_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()
    for path in (tmp_path / "status.json", tmp_path / ("x" * 251), tmp_path / ("x" * 300)):
        with pytest.raises(OSError) as failed:
            disk.atomic_write_bytes(path, b"{}")
        assert failed.value.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def fine() -> None:
    """Stands for a check of the target that finds nothing wrong."""


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Larger files cannot be written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, NO_ROOM),
        OSError(errno.EDQUOT, "Disk quota exceeded", ".hidden.tmp"),
        OSError("9319 requested and 2720 written"),
        SafetensorError(f"Error while serializing: I/O error: {NO_ROOM} (os error 28)"),
        RuntimeError(f"Error in FileIOWriter: write error in x: 0 != 1 ({NO_ROOM})"),
        Exception("File too large (os error 27)"),  # the class that tokenizers raises
    ],
)
def test_an_error_of_a_full_disk_names_its_file_and_the_room(
    tmp_path: Path, error: Exception
) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(WriteError) as caught, writing(path, 3 * 2**20):
        raise error
    line = reason(caught.value)
    assert line.startswith(f"{path}: ")
    assert "3.0 MiB are needed" in line
    assert "are free" in line or "ulimit" in line


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file", "corpus"), gzip.BadGzipFile("cut"), ValueError()]
)
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, writing(tmp_path / "x"):
        raise error
    assert caught.value is error


def test_the_room_that_is_said_is_that_of_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command deleted afterwards made it larger than what was needed."""
    rooms = [0, 2**20]
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30, rooms.pop(0)))
    with pytest.raises(WriteError) as caught, writing(tmp_path / "passages", 2**19):
        raise OSError(errno.ENOSPC, NO_ROOM)
    assert reason(caught.value).endswith("(512.0 KiB are needed, 0.0 KiB are free)")


def test_a_full_standard_output_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    monkeypatch.setattr(sys, "stdout", full)
    for show in (console.result, console.result_json):
        with pytest.raises(OSError, match="No space") as caught:
            show("x" * 10)
        assert reason(caught.value) == "standard output: no space left on device"
    os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_files_that_do_not_fit_leave_the_old_ones_and_nothing_else(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    world = tmp_path / "world"
    make_world(WORLD, world)
    figure, drawn = Figure(), tmp_path / "curves.png"
    save_figure(figure, drawn)
    before = contents(tmp_path)
    attempts: list[Callable[[], object]] = [
        lambda: make_world(WORLD, world, overwrite=True),
        lambda: save_figure(figure, drawn),
        lambda: save_figure(figure, tmp_path / "new.svg"),
        lambda: write_json(tmp_path / "scores.json", ["x" * 2000]),
    ]
    for attempt in attempts:
        with files_of_at_most(1000), pytest.raises(WriteError):
            attempt()
    assert contents(tmp_path) == before
    make_world(WORLD, world, overwrite=True)
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "world"]


def test_a_disk_without_room_for_the_lock_still_names_the_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with files_of_at_most(0):
        with pytest.raises(WriteError) as caught, new_directory(out, "writing", fine) as new:
            write_json(new / "a.json", [])
        assert reason(caught.value).startswith(f"{tmp_path}/.out.tmp/out/a.json: file too large")
        with one_writer(tmp_path / "run", "training"):
            assert has_writer(tmp_path / "run")
    assert not [*tmp_path.iterdir()]


def test_an_index_that_does_not_fit_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out = tmp_path / "corpus.jsonl", tmp_path / "index"
    lines = (json_text({"id": str(i), "contents": f"word{i % 7} word{i}"}) for i in range(400))
    corpus.write_text("\n".join(lines))
    build_index(corpus, out)
    before = contents(tmp_path)
    for size in (1000, 5000, 12000):
        with files_of_at_most(size), pytest.raises(WriteError, match="too large"):
            build_index(corpus, out, overwrite=True)
        assert contents(tmp_path) == before

    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, NO_ROOM)

    with monkeypatch.context() as patch:  # before a page of it is mapped without room behind it
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(WriteError) as caught:
            build_index(corpus, out, overwrite=True)
    assert Path(caught.value.filename).name == "data.csc.index.npy"
    assert "3.1 KiB are needed" in reason(caught.value)
    build_index(corpus, out, overwrite=True)
    assert contents(tmp_path) == before


def test_faiss_files_are_those_of_faiss_and_whole(tmp_path: Path) -> None:
    index = faiss.index_factory(16, "HNSW8", faiss.METRIC_INNER_PRODUCT)
    index.add(np.random.default_rng(0).random((300, 16), np.float32))
    faiss.write_index(index, str(tmp_path / "theirs"))
    write_whole(index, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    size = (tmp_path / "ours").stat().st_size
    for room in (10, size // 2, size - 1):
        with files_of_at_most(room), pytest.raises(WriteError, match="too large"):
            write_whole(index, tmp_path / "ours")


def test_a_status_is_true_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, payload: bytes) -> None:
        raise WriteError(errno.ENOSPC, NO_ROOM, str(path))

    with monkeypatch.context() as patch:
        patch.setattr("tspo_cli.runs.atomic_write_bytes", full)
        with pytest.raises(WriteError):
            set_status(tmp_path, "running", 0, 1)
    set_status(tmp_path, "running", 7, 1, ["a warning"])
    monkeypatch.setattr("tspo_cli.runs.atomic_write_bytes", full)
    set_status(tmp_path, "failed", 8, 1)
    assert read_json(tmp_path / "status.json")["state"] == "failed"


@pytest.mark.parametrize("swaps", [True, False])
def test_a_directory_is_the_old_or_the_new_one_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(disk, "_exchange", lambda one, other: False)
    new, out, rename = tmp_path / "new", tmp_path / "out", os.replace
    for last in range(5):
        for folder, text in ((new, "new"), (out, "old")):
            folder.mkdir(exist_ok=True)
            (folder / "file").write_text(text)
        calls = 0

        def replace(source: Path, target: Path) -> None:
            nonlocal calls
            calls += 1
            if calls == last + 1:  # noqa: B023
                monkeypatch.setattr(os, "replace", rename)
                raise Killed
            rename(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            replace_directory(new, out)
        except Killed:
            assert (out / "file").read_text() in ("old", "new")
        else:
            assert (out / "file").read_text() == "new"
            assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "file").read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        (".out.tmp", lambda out: make_world(WORLD, out)),
        (".out.tmp", lambda out: convert_gguf(out.parent / "tiny.gguf", out)),
        (".out.build", lambda out: build_index(out.parent / "corpus.jsonl", out)),
        (".out.old.tmp", lambda out: build_index(out.parent / "corpus.jsonl", out)),
        (".out.replaced", lambda out: build_index(out.parent / "corpus.jsonl", out)),
    ],
)
def test_what_has_the_name_of_a_hidden_folder_beside_the_target_is_not_ours(
    tmp_path: Path, name: str, make: Callable[[Path], object], kind: str
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "corpus.jsonl").write_text('{"id": "0", "contents": "words"}\n')
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "out").mkdir()
    for folder in ("kept", "kept/out"):
        (tmp_path / folder / "mine").write_text("mine")
    mine = tmp_path / name
    if kind == "file":
        mine.write_text("mine")
    elif kind == "folder":
        shutil.copytree(tmp_path / "kept", mine)
    else:
        mine.symlink_to("kept")
    before = contents(tmp_path)
    refused = pytest.raises(InvalidInputError, match=rf"{name}: .*; rename it, or choose another")
    with refused if name in (".out.tmp", ".out.build") else nullcontext():
        make(tmp_path / "out")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert contents(tmp_path) == before
    assert mine.is_symlink() == (kind == "link")


def test_what_began_at_the_target_during_the_work_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dense index takes hours; somebody may train into the folder meanwhile."""
    corpus, out = tmp_path / "corpus.jsonl", tmp_path / "out"
    corpus.write_text('{"id": "0", "contents": "words"}\n')

    def begin(then: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        out.mkdir(exist_ok=True)
        (out / "config.resolved.json").write_text("{}")
        return then(*arguments, **named)

    monkeypatch.setattr(building, "make_manifest", partial(begin, building.make_manifest))
    with pytest.raises(InvalidInputError, match="out: exists and is not an index; choose another"):
        build_index(corpus, out)
    assert [path.name for path in out.iterdir()] == ["config.resolved.json"]
    shutil.rmtree(out)
    monkeypatch.setattr(generate, "write_questions", partial(begin, generate.write_questions))
    with pytest.raises(InvalidInputError, match="out: the directory is not empty"):
        generate.make_world(WORLD, out)
    assert [path.name for path in out.iterdir()] == ["config.resolved.json"]
    shutil.rmtree(out)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_file_that_was_written_during_the_work_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("id,question,golden_answers\n0,Who?,Bo\n")

    def begin(path: Path) -> Any:
        out.write_text("mine")
        return readers.read_questions(path)

    monkeypatch.setattr(conversion, "read_questions", begin)
    with pytest.raises(InvalidInputError, match="is already there; add --overwrite"):
        conversion.convert(source, out)
    with pytest.raises(InvalidInputError, match="is already there; add --overwrite"):
        write_demonstrations(out, [], overwrite=False)
    assert out.read_text() == "mine"
    conversion.convert(source, out, overwrite=True)
    assert "Who?" in out.read_text()


def test_a_work_folder_of_a_killed_writer_is_used_again(tmp_path: Path) -> None:
    """Whatever it had begun; its lock goes last when it is deleted."""
    for left in ([], [".lock"], [".lock", "out/file"], [".lock", ".out.old.tmp/file"]):
        for file in left:
            (tmp_path / ".out.tmp" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / ".out.tmp" / file).touch()
        (tmp_path / ".out.tmp").mkdir(exist_ok=True)
        with new_directory(tmp_path / "out", "at work", fine) as folder:
            folder.mkdir()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        with one_writer(folder, "at work"):
            with (
                pytest.raises(InvalidInputError, match="another process is at work"),
                one_writer(folder, "at work"),
            ):
                pass
            assert folder.is_dir()
        assert not folder.exists()  # nothing was written
    with one_writer(folder, "at work"):
        (folder / "x").touch()
    assert (folder / "x").exists()


@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_a_lock_of_another_user_is_one_line(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".lock").write_text("another machine")
    (folder / ".lock").chmod(mode)
    with (
        permissions_count(),
        pytest.raises(InvalidInputError, match=r"out: the user \w+ wrote its \.lock, which this"),
        one_writer(folder, "at work"),
    ):
        pass
    with permissions_count():
        assert has_writer(folder) is None


def test_the_next_writer_keeps_its_lock_when_the_one_before_ends(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with ExitStack() as next_writer:
        with one_writer(folder, "at work"):
            shutil.rmtree(folder)
            next_writer.enter_context(one_writer(folder, "at work"))
        with (
            pytest.raises(InvalidInputError, match="another process is at work"),
            one_writer(folder, "at work"),
        ):
            pass


def test_writers_that_delete_their_folder_are_never_two(tmp_path: Path) -> None:
    out, at_work, most, done = tmp_path / "out", 0, 0, 0

    def write() -> None:
        nonlocal at_work, most, done
        for _ in range(40):
            with suppress(InvalidInputError), new_directory(out, "at work", fine) as folder:
                at_work += 1
                most = max(most, at_work)
                folder.mkdir()
                (folder / "file").write_text("whole")
                time.sleep(0.0005)
                at_work -= 1
                done += 1
        ended.append(None)

    ended: list[None] = []
    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(ended)) == (1, 4)
    assert done > 20
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "file").read_text() == "whole"


def test_a_world_a_model_and_an_index_have_one_writer(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    corpus, vectors = tmp_path / "corpus.jsonl", tmp_path / "vectors.npy"
    corpus.write_text('{"id": "0", "contents": "a passage"}\n')
    np.save(vectors, np.ones((1, 4), np.float32))
    before = contents(tmp_path)
    out = tmp_path / "out"
    attempts: list[Callable[[], object]] = [
        lambda: make_world(WORLD, out),
        lambda: convert_gguf(tmp_path / "tiny.gguf", out),
        lambda: import_index([vectors], corpus, out, encoder="none"),
    ]
    for attempt in attempts:
        with new_directory(out, "writing", fine) as folder:
            with pytest.raises(InvalidInputError, match="out: another process is"):
                attempt()
            folder.mkdir()
        out.rmdir()
    assert contents(tmp_path) == before


def evaluation(folder: Path, *datasets: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in datasets:
        (folder / f"{name}.json").write_text(str(len(datasets)))
        (folder / f"{name}.items.jsonl.gz").write_text(str(len(datasets)))
    results = [{"dataset": name, "n": 1, "em": 1.0} for name in datasets]
    write_json(folder / "eval.json", {"results": results})


def test_an_evaluation_is_replaced_when_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "evals"
    evaluation(folder, "films", "songs")
    (folder / "notes.txt").touch()
    old = contents(folder)
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        results_folder(folder, resume=False, overwrite=True) as work,
    ):
        work.mkdir()
        (work / "films.partial.jsonl").touch()
        raise KeyboardInterrupt
    kept = contents(folder)
    assert kept.pop(".new/films.partial.jsonl") == b""
    assert kept == old
    with (
        pytest.raises(InvalidInputError, match="--resume to continue it"),
        results_folder(folder, resume=False, overwrite=False),
    ):
        pass
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(source).name == "eval.json":
            raise Killed
        rename(source, target)

    with (  # noqa: PT012
        pytest.raises(Killed),
        monkeypatch.context() as patch,
        results_folder(folder, resume=True, overwrite=False) as again,
    ):
        assert again == work
        (work / "films.partial.jsonl").unlink()
        evaluation(work, "films")
        patch.setattr(os, "replace", killed)
    left = [place / ".dev.json.17.1.tmp" for place in (folder, folder / ".new")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with results_folder(folder, resume=True, overwrite=False) as settled:
        assert [path.exists() for path in left] == [False, False]
        assert settled == folder
    assert sorted(contents(folder)) == [
        "digests.jsonl",
        "eval.json",
        "films.items.jsonl.gz",
        "films.json",
        "notes.txt",
    ]
    assert (folder / "films.json").read_text() == "1"
