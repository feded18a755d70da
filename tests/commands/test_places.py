"""What a command is to write is refused before any work if nothing can be there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tspo_cli.commands.app import app
from tspo_cli.commands.options import check_place
from tspo_cli.errors import InvalidInputError

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


def test_places_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("new", "a/b/c", "file", ".", "dangling"):
        assert check_place(tmp_path / name) == tmp_path / name
    with pytest.raises(InvalidInputError):
        check_place(tmp_path / "dangling" / "x")
    assert check_place(None) is None
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(PermissionError) as refused:
        check_place(tmp_path / "a" / "b")
    assert refused.value.filename == str(tmp_path)
