"""Standard streams that are closed, full, no longer read, or of another encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_tspo

PASSAGES = [
    {"id": "1", "title": "Zoë", "text": "Zoë lives in 東京."},
    {"id": "2", "title": "Bob", "text": "Bob lives in Rome."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and its index."""
    path = tmp_path_factory.mktemp("streams")
    lines = "".join(json.dumps(line) + "\n" for line in PASSAGES)
    (path / "corpus.jsonl").write_text(lines, "utf-8")
    assert run_tspo("index", "build", path / "corpus.jsonl", "--out", path / "index").code == 0
    return path


def shell(
    folder: Path, arguments: str, redirected: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """`tspo ARGUMENTS` in a shell that redirects its streams."""
    place = {"PYTHONPATH": str(Path(__file__).parents[2])} | environment
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -P -m tspo_cli {arguments} {redirected}"],
        cwd=folder,
        env=os.environ | place,
        capture_output=True,
        check=False,
    )


def test_a_closed_stderr_puts_no_message_among_the_results(tmp_path: Path) -> None:
    done = shell(tmp_path, "runs ls nothing", "2>&-")
    assert (done.returncode, done.stdout) == (4, b"")


@pytest.mark.parametrize("redirected", ["2>&-", ">&- 2>&- <&-", "2>/dev/full", "2>&1 >&- | true"])
def test_messages_that_nobody_reads_end_no_work(
    folder: Path, tmp_path: Path, redirected: str
) -> None:
    done = shell(folder, f"index build corpus.jsonl --out {tmp_path / 'index'}", redirected)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "index" / "manifest.json").exists()


@pytest.mark.parametrize("arguments", ["--help", "data --help", "data check --help", "--version"])
def test_a_full_standard_output_is_named(tmp_path: Path, arguments: str) -> None:
    """Help and version said no more than "no space left on device"."""
    done = shell(tmp_path, arguments, ">/dev/full")
    said = b"error: standard output: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Whatever a library or a child process writes to stderr would stand in the file."""
    code = (
        "import os, subprocess\n"
        "from tspo_cli.console import open_streams\n"
        "open_streams()\n"
        "with open('record', 'w') as record:\n"
        "    os.write(1, b'result'), os.write(2, b'message')\n"
        "    subprocess.run(['sh', '-c', 'echo child >&2; echo child'], close_fds=False)\n"
    )
    subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "$CODE" >&- 2>&- <&-'],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "CODE": code},
        check=True,
    )
    assert (tmp_path / "record").read_bytes() == b""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_results_in_files_and_pipes_are_utf_8(folder: Path, environment: dict[str, str]) -> None:
    done = shell(folder, "index search index lives", **environment)
    assert "Zoë lives in 東京." in done.stdout.decode(), done.stderr
    done = shell(folder, "index search index lives --json", **environment)
    assert "Zoë lives in 東京." in str(json.loads(done.stdout)), done.stderr


def test_a_terminal_shows_escapes_for_what_its_encoding_lacks(folder: Path) -> None:
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb") as shown, os.fdopen(follower, "wb") as terminal:
        subprocess.run(
            [sys.executable, "-P", "-m", "tspo_cli", "index", "search", "index", "lives"],
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "ascii"},
            stdout=terminal,
            check=True,
        )
        assert b"Zo\\xeb lives in \\u6771\\u4eac." in os.read(shown.fileno(), 9999)
