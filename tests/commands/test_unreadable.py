"""A file or folder that this user may not read, and a link to nothing: one line that names it and
says what to do, with the exit code of bad or missing input.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.permissions import permissions_count
from tspo_cli.commands import app
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.json_files import check_files

QUESTION = '{"id": "1", "question": "q", "golden_answers": ["a"]}\n'
SFT = "train any/sft --dry-run --set model.path=model --set data.demonstrations=['{}']"
RL = (
    "train any/grpo --dry-run --set model.path=model --set data.train=['q.jsonl'] "
    "--set eval.data=['q.jsonl'] --set retriever.url=http://127.0.0.1:9"
)
FILES = [
    "data check {}",
    "data check q.jsonl --corpus {}",
    "data audit {} --train q.jsonl",
    "data convert {} out.jsonl",
    "data make-demos {} --index index --out out.jsonl",
    "index build {} --out out",
    "eval model --data {}",
    "eval model --method direct --data q.jsonl --set rollout.prompt={}",
    "eval model --method direct --data q.jsonl --set judge.url=http://127.0.0.1:9 "
    "--set judge.model=m --set judge.prompt={}",
    "train {} --dry-run",
    SFT,
    f"{RL} --set data.train=['{{}}']",
    f"{RL} --set eval.data=['{{}}']",
    f"{RL} --set deepspeed.config={{}}",
    "config validate {}",
    "config show {}",
    "plan {}",
    "sweep {} --dry-run",
    "credit {}",
    "model convert {} --out out",
    "serve index --token-file {}",
]
FOLDERS = [
    "data check {}",
    "eval model --data {}",
    "eval {} --data q.jsonl",
    "train {}/a.toml",
    "index build {} --out out",
    "index info {}",
    "index search {} words",
    "index verify {}",
    "serve {}",
    "report {}",
    "inspect {}",
    "runs show {}",
    "runs ls {}",
    "runs diff {} {}",
    "credit {}",
    "doctor {}",
]

LISTED = [
    "eval {} --data q.jsonl",
    SFT.replace("=model ", "={} ").replace("['{}']", "['q.jsonl']"),
    "model convert {} --out out",
    "index build {} --out out",
    "report {}",
    "runs ls {}",
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text(QUESTION)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text("{}")
    yield tmp_path
    (tmp_path / "closed").exists() and (tmp_path / "closed").chmod(0o700)


def _run(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[object, str]:
    """Exit code and last message of the command itself, in this process."""
    monkeypatch.setattr("sys.argv", ["tspo", *line.split()])
    monkeypatch.setattr(app, "end_on_signals", lambda: None)
    monkeypatch.setattr(app, "all_is_in_order", lambda: None)
    monkeypatch.setattr(app.console, "open_streams", lambda: None)
    with permissions_count(), pytest.raises(SystemExit) as end:
        app.main()
    return end.value.code, capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("line", FILES)
def test_a_file_that_may_not_be_read(
    place: Path, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "closed").write_text(QUESTION)
    (place / "closed").chmod(0)
    code, said = _run(line.replace("{}", "closed"), capsys, monkeypatch)
    assert "closed: cannot be read (Permission denied); " in said
    assert code == 3


@pytest.mark.parametrize("line", FOLDERS)
def test_a_folder_that_may_not_be_looked_into(
    place: Path, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "closed").mkdir()
    (place / "closed").chmod(0)
    code, said = _run(line.replace("{}", "closed"), capsys, monkeypatch)
    assert said.startswith("error: closed"), said
    assert said.endswith("cannot be read (Permission denied); give this user the right to read it")
    assert code == 3


@pytest.mark.parametrize("line", LISTED)
@pytest.mark.parametrize("inside", ["config.json", "more/a.md", "items.jsonl"])
def test_a_folder_whose_files_may_be_opened_and_not_listed(
    place: Path,
    line: str,
    inside: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pattern finds nothing there: it is not said to be empty, and nothing is left out."""
    (place / "closed" / inside).parent.mkdir(parents=True)
    (place / "closed" / inside).write_text("{}")
    (place / "closed").chmod(0o300)
    code, said = _run(line.replace("{}", "closed"), capsys, monkeypatch)
    (place / "closed").chmod(0o700)
    assert said.startswith("error: closed"), said
    assert said.endswith("cannot be read (Permission denied); give this user the right to read it")
    assert code == 3


def test_a_closed_folder_of_a_corpus_is_not_left_out(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = place / "texts" / "more" / "closed"
    closed.mkdir(parents=True)
    for folder in (closed, place / "texts"):
        (folder / "a.md").write_text("some words")
    closed.chmod(0o300)
    code, said = _run("index build texts --out out", capsys, monkeypatch)
    closed.chmod(0o700)
    assert said.startswith("error: texts/more/closed: cannot be read (Permission denied); ")
    assert code == 3
    assert not (place / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
def test_a_file_of_a_model(place: Path, name: str) -> None:
    (place / "model" / name).write_text("{}")
    (place / "model" / name).chmod(0)
    with permissions_count(), pytest.raises(InvalidInputError) as refused:
        check_files(place / "model")
    assert f"model/{name}: cannot be read (Permission denied); " in str(refused.value)


@pytest.mark.parametrize("target", ["nowhere", "link"])
@pytest.mark.parametrize(
    "line", [line for line in FILES if "deepspeed" not in line and "rollout.prompt" not in line]
)
def test_a_link_to_nothing(
    place: Path,
    line: str,
    target: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (place / "link").symlink_to(target)
    code, said = _run(line.replace("{}", "link"), capsys, monkeypatch)
    loop = "link: cannot be read (Too many levels of symbolic links)"
    if target == "link" and loop in said:
        assert code == 3
    else:
        assert f"link: is a link to nothing ({target})" in said
        assert code == 4


@pytest.mark.parametrize("line", ["report {}", "inspect {}", "runs show {}", "runs diff {} {}"])
def test_links_that_lead_to_each_other_are_no_run(
    place: Path, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "one").symlink_to("other")
    (place / "other").symlink_to("one")
    code, said = _run(line.replace("{}", "one"), capsys, monkeypatch)
    assert said == "error: one: is a link to nothing (other); check the path"
    assert code == 4


def test_a_directory_is_no_data_file(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "folder").mkdir()
    for line in ("data convert {} out.jsonl", SFT):
        code, said = _run(line.replace("{}", "folder"), capsys, monkeypatch)
        assert "folder: expected a file, got a directory; name the JSONL" in said
        assert code == 3


def test_a_place_where_nothing_may_be_written_is_no_bad_input(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "closed").mkdir()
    (place / "closed").chmod(0)
    code, said = _run("eval model --data q.jsonl --out closed/new", capsys, monkeypatch)
    assert said == f"error: {place}/closed: permission denied"
    assert code == 1
