"""What a command is to write is refused before any work if nothing can be there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from tests.conftest import run_tspo
from tests.permissions import permissions_count
from tspo_cli.commands.app import app
from tspo_cli.commands.options import check_file, check_folder, check_page
from tspo_cli.disk import WriteError, atomic_write_text, new_directory
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.index.build_index import build_index

COMMANDS = [
    ["train", "tiny/tspo", "--out", "{}"],
    ["sweep", "none.sweep.toml", "--out", "{}"],
    ["sweep", "none.sweep.toml", "--write-configs", "{}"],
    ["eval", "none", "--data", "none.jsonl", "--out", "{}"],
    ["demo", "--quick", "--out", "{}"],
    ["index", "build", "none.jsonl", "--out", "{}"],
    ["model", "convert", "none.gguf", "--out", "{}"],
    ["data", "convert", "none.jsonl", "{}"],
    ["data", "make-world", "--out", "{}"],
    ["data", "make-corpus", "none", "--out", "{}"],
    ["data", "make-demos", "none.jsonl", "--index", "none", "--out", "{}"],
    ["data", "demos-from", "none", "--out", "{}"],
    ["report", "none", "--html", "{}"],
    ["report", "none", "--figure", "{}"],
    ["inspect", "none", "--trec-run", "{}"],
    ["inspect", "none", "--qrels", "{}"],
    ["credit", "none", "--figure", "{}"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("below", ["x.jsonl", "a/b/x.jsonl"])
def test_a_place_below_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], below: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("mine")
    done = CliRunner().invoke(app, [word.replace("{}", f"notes/{below}") for word in words])
    assert isinstance(done.exception, InvalidInputError), done.output
    assert str(done.exception) == (
        f"notes/{below}: {tmp_path / 'notes'} is not a directory; choose another place"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


BAD_PLACES = {
    "x" * 221: "xxx: expected a name of at most 220 bytes, got 221; choose another place",
    "ä" * 111 + "/x": "/x: expected a name of at most 220 bytes, got 222; choose another place",
    "y/" * 1900 + "x": ": expected a path of at most 3,600 bytes, got ",
    "b\udcff": "b\udcff: expected a name in UTF-8; choose another place",
}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("place", BAD_PLACES, ids=["name", "letters", "path", "bytes"])
def test_a_name_that_nothing_can_have_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [word.replace("{}", place) for word in words])
    assert isinstance(done.exception, InvalidInputError), done.output
    assert BAD_PLACES[place] in str(done.exception)
    assert len(str(done.exception)) < 300
    assert not [*tmp_path.iterdir()]


def test_a_name_that_can_be_written_has_room_for_its_temporary_file(tmp_path: Path) -> None:
    place = check_file(tmp_path / ("x" * 220))
    assert place is not None
    atomic_write_text(place, "text")
    with new_directory(tmp_path / ("y" * 220), "writing", lambda: None) as folder:
        folder.mkdir()
    assert {path.name for path in tmp_path.iterdir()} == {"x" * 220, "y" * 220}


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["y" * 200] * 25)], ids=["name", "path"])
@pytest.mark.parametrize(
    "words",
    [
        ["eval", "{}", "--data", "none.jsonl"],
        ["train", "{}"],
        ["train", "tiny/tspo", "--set", "model.path={}"],
        ["report", "{}"],
        ["doctor", "{}"],
        ["data", "check", "{}"],
        ["index", "info", "{}"],
        ["serve", "{}"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_an_input_whose_name_no_file_can_have_is_bad_input(
    tmp_path: Path, words: list[str], name: str
) -> None:
    done = run_tspo(*(word.replace("{}", name) for word in words), cwd=tmp_path)
    assert done.code == 3, done.err
    assert done.err.startswith("error: ")
    assert "name too long" in done.err
    assert len(done.err.splitlines()) == 1
    assert len(done.err) < 300


FILES = [words for words in COMMANDS if "DIR" not in words and words[0] in ("report", "inspect")]
FILES += [["credit", "none", "--figure", "{}"], ["data", "convert", "none.jsonl", "{}"]]
FILES += [words for words in COMMANDS if words[1] in ("make-demos", "demos-from")]


@pytest.mark.parametrize("words", FILES, ids=" ".join)
@pytest.mark.parametrize("kind", ["a directory", "a named pipe", "a device", "a socket"])
def test_what_is_no_file_is_not_replaced_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "x.jsonl"
    if kind == "a directory":
        place.mkdir()
    elif kind == "a named pipe":
        os.mkfifo(place)
    elif kind == "a device":
        place.symlink_to("/dev/null")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("x.jsonl")
    done = CliRunner().invoke(app, [word.replace("{}", "x.jsonl") for word in words])
    assert isinstance(done.exception, InvalidInputError), done.output
    assert str(done.exception) == f"x.jsonl: expected a file, got {kind}; choose another place"


@pytest.mark.parametrize("words", [words for words in COMMANDS if words not in FILES])
def test_a_link_to_nothing_is_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    done = CliRunner().invoke(app, [word.replace("{}", "link") for word in words])
    assert str(done.exception) == "link: is a link to nothing; choose another place"


@pytest.mark.parametrize("place", [".", "./", "..", "/", "../here"])
@pytest.mark.parametrize("kind", ["index", "world", "corpus"])
def test_the_working_directory_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str
) -> None:
    """An index there was a traceback; after a world, `ls` in the shell showed nothing."""
    here = tmp_path / "here"
    here.mkdir()
    source = tmp_path.with_name(f"{tmp_path.name}.jsonl")
    source.write_text(json.dumps({"id": "a", "contents": "river mentor"}) + "\n")
    words = {
        "index": ["index", "build", str(source)],
        "world": ["data", "make-world", "--entities", "40"],
        "corpus": ["data", "make-corpus", str(source)],
    }[kind]
    monkeypatch.chdir(here)
    done = CliRunner().invoke(app, [*words, "--out", place])
    assert isinstance(done.exception, InvalidInputError), done.output
    if place in (".", "./", "../here"):
        assert "the working directory lies in it" in str(done.exception)
    assert here.is_dir()
    assert not [*here.iterdir()]


def test_an_index_is_built_on_the_disk_that_a_link_leads_to(tmp_path: Path) -> None:
    """It was built beside the link, and could not be moved from there to another disk."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "contents": "river mentor"}\n')
    with TemporaryDirectory(dir=shared) as other:
        (tmp_path / "index").symlink_to(other)
        build_index(tmp_path / "corpus.jsonl", tmp_path / "index")
        assert (Path(other) / "manifest.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl", "index"}


def test_a_page_takes_the_place_of_a_page_alone(tmp_path: Path) -> None:
    for text in ("", "<!doctype html>old", "<!DOCTYPE html>\n<html>", "<html>"):
        (tmp_path / "page").write_text(text)
        assert check_page(tmp_path / "page") == tmp_path / "page"
    (tmp_path / "page").write_text('{"step": 1, "reward": 0.5}\n')
    with pytest.raises(InvalidInputError, match="page: is no HTML page; delete it, or choose"):
        check_page(tmp_path / "page")


def test_places_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("new", "a/b/c", "."):
        assert check_folder(tmp_path / name) == tmp_path / name
    for name in ("new", "a/b/c", "file", "dangling"):
        assert check_file(tmp_path / name) == tmp_path / name
    for check in (check_folder, check_file):
        with pytest.raises(InvalidInputError):
            check(tmp_path / "dangling" / "x")
        assert check(None) is None
    tmp_path.chmod(0o500)
    with permissions_count(), pytest.raises(WriteError) as refused:
        check_folder(tmp_path / "a" / "b")
    tmp_path.chmod(0o700)
    assert refused.value.filename == str(tmp_path)


@pytest.mark.parametrize("command", ["index build corpus.jsonl --out index", "doctor"])
def test_a_deleted_working_directory_is_named(tmp_path: Path, command: str) -> None:
    """The error was `no such file or directory`, of no file, or one of a library of torch's."""
    gone = tmp_path / "gone"
    gone.mkdir()
    steps = f'cd "$1" && rmdir "$1" && exec "$0" -m tspo_cli {command}'
    done = subprocess.run(
        ["sh", "-c", steps, sys.executable, str(gone)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "error: the working directory was deleted; change into another one\n"
