"""A wrong command line is one harmless line, and no secret of it or of the environment is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1

import pytest

from tests.conftest import run_tspo
from tspo_cli.config.urls import below, check_url
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.retrieval.remote.read_answer import excerpt
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient
from tspo_cli.text import secrets
from tspo_cli.text.access_token import RETRIEVER_TOKEN, read_token

URL = "http://user:pw123@127.0.0.1:9/x?token=tok456"
STEERING = "\x1b[31m\u202e\x07x"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    secrets._keys.clear()


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ([URL], 2, "No such command"),
        ([STEERING], 2, "No such command"),
        (["train", f"--{URL}"], 2, "No such option"),
        (["train", f"--{STEERING}"], 2, "No such option"),
        (["runs", "ls", "-q"], 2, "-q: expected before the command, as in tspo -q eval MODEL; see"),
        (["serve", "--quiet", "i"], 2, "--quiet: expected before the command"),
        (["train", "--out"], 2, "requires an argument"),
        (["eval"], 2, "Missing argument"),
        (["eval", "m", "--limit", URL], 2, "'--limit'"),
        (["serve", "i", "--port", STEERING], 2, "'--port'"),
        (["eval", "m", "--data", "hf:d:e", "--method", STEERING], None, "error: "),
        (["runs", "ls", STEERING, URL], 2, "unexpected extra argument"),
        (["report", URL], 4, "no such run directory"),
        (["doctor", URL], 4, "no such directory"),
        (["inspect", URL], 4, "no such directory"),
        (["eval", "m", "--api-base", f"ftp{URL[4:]}", "--data", "d"], None, "error: "),
        (["train", "tiny/tspo", "--set", f"{URL}=1"], 3, "error: "),
        (["train", "tiny/tspo", "--set", f"retriever.url={URL[7:]}"], None, "error: "),
    ],
)
def test_a_wrong_command_line_is_one_harmless_line(
    words: list[str], code: int | None, part: str, tmp_path: Path
) -> None:
    done = run_tspo(*words, cwd=tmp_path)
    assert done.code in ((code,) if code else (2, 3, 4)), done.err
    assert part in done.err
    assert len(done.err.strip("\n").split("\n")) == 1
    shown = done.err + done.out
    assert not any(secret in shown for secret in ("pw123", "tok456", "\x1b", "\u202e", "\x07"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["eval", "m", "--data", "d", "--out", ""], "--out"),
        (["eval", "m", "--data", "d", "--out="], "--out"),
        (["eval", "m", "--data", ""], "--data"),
        (["eval", "m", "--data", "d", "--index", ""], "--index"),
        (["eval", "", "--data", "d"], "an argument"),
        (["train", "tiny/tspo", "--out", ""], "--out"),
        (["index", "build", "c.jsonl", "--out", ""], "--out"),
        (["index", "search", "", "words"], "an argument"),
        (["data", "check", "q.jsonl", "--corpus", ""], "--corpus"),
        (["demo", "--out", ""], "--out"),
        (["report", "--json", ""], "an argument"),
        (["runs", "ls", ""], "an argument"),
        (["serve", ""], "an argument"),
        (["doctor", ""], "an argument"),
        (["plan", ""], "an argument"),
        (["sweep", "a.sweep.toml", "--out", ""], "--out"),
    ],
)
def test_an_empty_path_is_not_the_working_directory(
    words: list[str], named: str, tmp_path: Path
) -> None:
    done = run_tspo(*words, cwd=tmp_path)
    line = f"error: {named}: expected a value, got an empty one (an unset variable of the shell?)"
    assert done.err.startswith(line)
    assert len(done.err.strip("\n").split("\n")) == 1
    assert (done.code, done.out, list(tmp_path.iterdir())) == (2, "", [])


def test_a_key_may_have_an_empty_value(tmp_path: Path) -> None:
    words = ["config", "show", "tiny/tspo", "--set", "retriever.index=", "--set=model.path="]
    done = run_tspo(*words, "--set", "retriever.url=http://127.0.0.1:9", cwd=tmp_path)
    assert (done.code, 'index = ""' in done.out) == (0, True), done.err


def test_every_problem_of_an_experiment_has_a_line_of_its_own(tmp_path: Path) -> None:
    done = run_tspo("config", "validate", "any/tspo", cwd=tmp_path)
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (3, "", 3)
    keys = [line.split(": ")[1] for line in lines if line.startswith("error: ")]
    assert keys == ["data.train", "model.path", "retriever"]


def test_a_launch_script_with_a_secret_is_announced(tmp_path: Path) -> None:
    words = ["train", "tiny/tspo", "--set", "retriever.index=", "--set", f"retriever.url={URL}"]
    done = run_tspo(*words, "--print-launch", "torchrun", cwd=tmp_path)
    assert done.code == 0
    assert "the script has the secret of this URL" in done.err
    known = json.loads(run_tspo(*words, "--print-launch", "torchrun", "--json", cwd=tmp_path).out)
    assert known == {"launcher": "torchrun", "script": done.out.rstrip("\n")}
    assert "pw123" not in done.err


@pytest.mark.parametrize(
    "url", ["user:pw123@h:80", "ftp://user:pw123@h", "a:pw123@b@c", "u:p@h/?token=pw123"]
)
def test_what_is_no_url_is_named_without_its_login(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_url(url, "endpoint", "http://h")
    assert "pw123" not in str(caught.value)
    assert "***@" in str(caught.value)


@pytest.mark.parametrize("key", ["sk-789\n\nsk-790", "sk-789é", "sk-789 x", "\x1bsk-789"])
def test_a_key_that_no_header_can_hold_is_named_by_its_variable(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(InvalidInputError, match="MY_KEY: expected a key") as caught:
        EndpointClient("http://127.0.0.1:9/v1", key_env="MY_KEY")
    assert "789" not in str(caught.value)


def test_keys_that_a_server_repeats_are_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-1234567890\n")
    EndpointClient("http://127.0.0.1:9/v1", key_env="MY_KEY").close()
    (tmp_path / "token").write_text("0123456789abcdef-token\n")
    read_token(RETRIEVER_TOKEN, str(tmp_path / "token"))
    said = "bad 'Bearer sk-1234567890', 0123456789abcdef-token"
    assert secrets.without_secrets(said) == "bad 'Bearer ***', ***"
    assert excerpt(said) == "bad 'Bearer ***', ***"
    assert secrets.values_without_secrets({"error": [said]}) == {"error": ["bad 'Bearer ***', ***"]}


@pytest.mark.parametrize(
    "echo",
    [
        *("key Kk+ey/9876543 is unknown", "?k=Kk%2Bey%2F9876543", "Kk%2Bey/9876543"),
        *("user:pass word-7", "user%3Apass%20word-7", "user%3Apass+word-7"),
        *('{"a": "\\u00e9t\\u00e9-1234"}', "\u00e9t\u00e9-1234", "%C3%A9t%C3%A9-1234"),
        *("<b>a&lt;b&gt;c-1234</b>", "a<b>c-1234", "a%3cb%3ec-1234"),
    ],
)
def test_what_a_server_repeats_of_the_secrets_of_its_url_is_hidden(
    echo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_keys", set())
    check_url("http://user:pass%20word-7@h/v1?api_key=Kk%2Bey/9876543", "retriever", "http://h")
    check_url("http://h/v1?access_token=%C3%A9t%C3%A9-1234", "retriever", "http://h")
    check_url("http://user:a%3Cb%3Ec-1234@h/v1?model=plain-words", "retriever", "http://h")
    for shown in (secrets.without_secrets(echo), excerpt(echo)):
        assert "***" in shown
        assert not re.search("9876543|word-7|1234", shown)
    assert secrets.without_secrets("plain-words") == "plain-words"


def test_a_key_that_another_begins_with_leaves_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [f"sk-12345{'x' * more}" for more in range(40)]
    monkeypatch.setattr(secrets, "_keys", set(keys))
    assert secrets.without_secrets(f"bad {keys[-1]}, {keys[7]}") == "bad ***, ***"


@pytest.mark.parametrize("base", ["http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1/"])
@pytest.mark.parametrize("end", ["?key=a/b", "?key=a&version=2", "?key=a#part"])
def test_a_path_goes_before_the_parameters_of_a_url(base: str, end: str) -> None:
    parameters = end.partition("#")[0]
    assert below(base + end, "/models") == f"http://127.0.0.1:9/v1/models{parameters}"
    assert below(base, "/models") == "http://127.0.0.1:9/v1/models"


def test_the_exit_codes_in_the_documents_are_those_of_the_code() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reliability.md").read_text()
    rows = page.partition("## Exit codes")[2].split("\n")
    cells = [row.split("|")[1] for row in rows if row.startswith("| ") and row[2].isdigit()]
    documented = {int(code) for cell in cells for code in cell.split(",")}
    ours = {0, 135, 137, 139, *(128 + number for number in (SIGHUP, SIGINT, SIGTERM, SIGUSR1))}
    assert documented == ours | {
        kind.exit_code for kind in (TspoError, *TspoError.__subclasses__())
    }
