"""Data sets cannot take the names of our own files, and records keep no secret of a URL."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tspo_cli.console import error, say, warn
from tspo_cli.data.readers import default_data_source
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.evaluation.resuming.results_folder import results_folder
from tspo_cli.evaluation.sets import read_eval_sets
from tspo_cli.runs import (
    CONFIG_NAME,
    command_line,
    dataset_file_name,
    items_file,
    log_file,
    log_line,
)
from tspo_cli.text.secrets import values_without_secrets, without_secrets

MODEL = Path(__file__).resolve().parent.parent / "fixtures" / "run_0_1_0" / "start" / "model"
NAMES = ("eval", "Timings", "nq", "nq.judge", "../../up", "..", "\x1b[31m", "x" * 300)


def write(path: Path, names: tuple[str, ...]) -> Path:
    records = [
        {"id": "1", "question": "who?", "golden_answers": ["Ada"], "data_source": name}
        for name in names
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_every_name_has_its_own_file_in_the_folder(tmp_path: Path) -> None:
    names = [
        *NAMES,
        "Eval",
        "timings",
        "eval_",
        "timings_",
        "nq.judge_",
        "x" * 301,
        "é" * 150,
        "a\0b",
        "plain name",
    ]
    files = {name: dataset_file_name(name) for name in names}
    assert len(set(files.values())) == len(names)
    assert files["plain name"] == "plain name"
    assert not {"eval", "timings"} & {file.lower() for file in files.values()}
    for file in files.values():
        assert "/" not in file
        assert len(file.encode()) <= 200
        (tmp_path / f"{file}.json").write_text("{}")
    assert len(list(tmp_path.iterdir())) == len(names)


def test_a_hidden_file_has_a_name(tmp_path: Path) -> None:
    """Its data set was called nothing, and so were the files of its scores."""
    for file, name in ((".dev.jsonl", "dev"), ("..train.jsonl", "train"), ("...jsonl", "jsonl")):
        path = tmp_path / file
        path.write_text(json.dumps({"question": "who?", "golden_answers": ["Ada"]}) + "\n")
        expected = name if name == "jsonl" else tmp_path.name
        assert default_data_source(path) == expected
        assert [*read_eval_sets([str(path)], 0)] == [name]


def test_a_dot_in_the_name_of_a_file_is_no_ending(tmp_path: Path) -> None:
    """nq.dev.jsonl, nq.test.jsonl and nq.train.jsonl were nq, nq_nq and an error."""
    names = ["nq.dev", "nq.test", "nq.train", "musique_v1.0_dev"]
    paths = [write(tmp_path / f"{name}.jsonl", ("",)) for name in names]
    assert [*read_eval_sets([str(path) for path in paths], 0)] == names


def test_items_of_an_earlier_version_are_found(tmp_path: Path) -> None:
    assert items_file(tmp_path, "eval").name == "eval_.items.jsonl.gz"
    (tmp_path / "eval.items.jsonl.gz").write_bytes(b"")
    assert items_file(tmp_path, "eval").name == "eval.items.jsonl.gz"


@pytest.mark.parametrize(
    ("file", "name"), [("questions.csv", "films"), ("questions.jsonl", "films"), ("dev.csv", "dev")]
)
def test_a_file_called_questions_is_named_by_its_folder(
    tmp_path: Path, file: str, name: str
) -> None:
    """As `tspo data check` and trainings name it, whatever its form."""
    path = tmp_path / "films" / file
    path.parent.mkdir()
    record = {"question": "who?", "answer": "Ada"}
    path.write_text("question,answer\nwho?,Ada\n" if path.suffix == ".csv" else json.dumps(record))
    assert list(read_eval_sets([str(path)], 0)) == [name]


def test_names_of_the_same_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same file"):
        read_eval_sets([str(write(tmp_path / "q.jsonl", ("a/b", "a_b")))], 0)


@pytest.mark.parametrize("names", [("Dev", "dev"), ("caf\u00e9", "cafe\u0301")])
def test_names_of_one_file_on_some_file_system_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match="same file"):
        read_eval_sets([str(write(tmp_path / "q.jsonl", names))], 0)


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_evaluation_is_written_among_other_records(tmp_path: Path, overwrite: bool) -> None:
    """A data set called world would have the name of that of a world."""
    for name in ("world.json", "log.txt"):
        (tmp_path / name).write_text("{}")
    with (
        pytest.raises(InvalidInputError, match=r"other files than an evaluation \(world.json\)"),
        results_folder(tmp_path, resume=False, overwrite=overwrite),
    ):
        pass
    assert (tmp_path / "world.json").read_text() == "{}"
    (tmp_path / "world.json").unlink()
    with results_folder(tmp_path, resume=False, overwrite=overwrite) as folder:
        assert folder == tmp_path


def test_no_evaluation_is_written_among_the_records_of_a_run(tmp_path: Path) -> None:
    """A data set called status would have the name of its status."""
    (tmp_path / CONFIG_NAME).write_text("{}")
    with (
        pytest.raises(InvalidInputError, match="is the directory of a run; choose another --out"),
        results_folder(tmp_path, resume=False, overwrite=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG_NAME]


def test_data_sets_with_the_names_of_our_files_are_scored_and_resumed(tmp_path: Path) -> None:
    questions = write(tmp_path / "questions.jsonl", NAMES)
    command = [
        *("eval", MODEL, "--data", questions, "--method", "direct", "--out", tmp_path / "out"),
        *("--set", "rollout.max_new_tokens=4", "--set", "judge.model=http://u:pw@h/?token=abc"),
    ]
    done = run_tspo(*command)
    assert done.code == 0, done.err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(names) == 2 * len(NAMES) + 4  # and eval.json, timings.json, digests.jsonl, .lock
    summary = (tmp_path / "out" / "eval.json").read_text()
    assert [scores["dataset"] for scores in json.loads(summary)["results"]] == list(NAMES)
    assert json.loads((tmp_path / "out" / "eval_.json").read_text())["dataset"] == "eval"
    assert set(json.loads((tmp_path / "out" / "timings.json").read_text())) == set(NAMES)
    assert "http://***@h/?token=***" in json.loads(summary)["command"]
    assert "u:pw" not in summary
    assert "abc" not in json.loads(summary)["config"]["judge"]["model"]
    again = run_tspo(*command, "--resume")
    assert again.code == 0, again.err
    assert again.err.count("already evaluated") == len(NAMES)
    assert json.loads((tmp_path / "out" / "eval.json").read_text()) == json.loads(summary)
    assert run_tspo(*command, "--overwrite").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


@pytest.mark.parametrize("name", ["config.resolved", "Sweep", "demo"])
def test_scores_do_not_make_their_folder_another(tmp_path: Path, name: str) -> None:
    """Scores of config.resolved made it a run, which no verb could read and none goes on with."""
    questions = write(tmp_path / "questions.jsonl", (name,))
    out = tmp_path / "out"
    command = ["eval", MODEL, "--data", questions, "--method", "direct", "--out", out]
    assert run_tspo(*command, "--set", "rollout.max_new_tokens=4").code == 0
    assert not {"config.resolved.json", "sweep.json", "demo.json"} & {
        path.name.lower() for path in out.iterdir()
    }
    again = run_tspo(*command, "--set", "rollout.max_new_tokens=4", "--resume")
    assert again.code == 0, again.err
    report = run_tspo("report", out, "--format", "json")
    assert report.code == 0, report.err
    assert [row["dataset"] for row in json.loads(report.out)["rows"]] == [name]


def test_an_evaluation_does_not_replace_its_own_questions(tmp_path: Path) -> None:
    data = write(tmp_path / "world.jsonl", ("world",)).rename(tmp_path / "world.json")
    before = data.read_bytes()
    words = ("eval", MODEL, "--data", data, "--method", "direct", "--out", tmp_path)
    done = run_tspo(*words, "--overwrite")
    assert (done.code, data.read_bytes()) == (3, before)
    assert f"{data}: is the file that the scores go to" in done.err


SECRETS = {
    "http://user:pass@host:8000/retrieve": "http://***@host:8000/retrieve",
    "https://ghp_abc@host/x": "https://***@host/x",
    "http://user:p@ss@host": "http://***@host",
    "http://h/v1?token=abc&k=3": "http://h/v1?token=***&k=3",
    "http://h/?k=3&X-Api-Key=s3cr3t#top": "http://h/?k=3&X-Api-Key=***#top",
    "grpc+tls://u:p@[::1]:99/": "grpc+tls://***@[::1]:99/",
    "http://u:p@h/?token=abc: no such": "http://***@h/?token=***: no such",
    "(http://h/?key=a:b) http://h/?key=c, d": "(http://h/?key=***) http://h/?key=***, d",
    "http://h/?pass=abc&jwt=abc&page=2": "http://h/?pass=***&jwt=***&page=2",
    "http://h/?%74oken=abc&api%2Dkey=abc": "http://h/?%74oken=***&api%2Dkey=***",
    "http://u:p'w@h and 'http://h/'": "http://***@h and 'http://h/'",
    "'http://a:b@c' and http://d:e@f": "'http://***@c' and http://***@f",
    "http://user:a/abc@host: no such": "http://***@host: no such",
    "http://user:a abc@host: no such": "http://***@host: no such",
    "http://user:a\tabc@host and me@h": "http://***@host and me@h",
    'http://user:a"abc@host, "http://h"': 'http://***@host, "http://h"',
    "http:///user:abc@host": "http:///***@host",
    "http:\\\\user:abc@host": "http:\\\\***@host",
    "user:abc@host:8000/retrieve": "***@host:8000/retrieve",
    "//user:abc@[::1]:8000": "//***@[::1]:8000",
    "http://h/?k=3;token=abc;s3cr3t": "http://h/?k=3;token=***",
    "http://h/?token=a'abc 'http://h/?key=abc'": "http://h/?token=*** 'http://h/?key=***'",
    'a = ["http://h/?token=abc", "x"]': 'a = ["http://h/?token=***", "x"]',
    "http://h/#access_token=abc": "http://h/#access_token=***",
    "http://h/?token[]=abc&k=3": "http://h/?token[]=***&k=3",
    "127.0.0.1:9/?token=abc: no such": "127.0.0.1:9/?token=***: no such",
}


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_of_urls_are_hidden(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert without_secrets(text) == SECRETS[text]
    assert values_without_secrets({"a": [text, 1]}) == {"a": [SECRETS[text], 1]}
    say(text)
    warn(text)
    error(text)
    err = capsys.readouterr().err
    assert err == f"{SECRETS[text]}\nwarning: {SECRETS[text]}\nerror: {SECRETS[text]}\n"
    log_file(tmp_path, 1).parent.mkdir()
    log_line(tmp_path, 1, text)
    assert log_file(tmp_path, 1).read_text() == SECRETS[text] + "\n"
    assert not re.search("abc|s3cr3t|user", command_line(["--retriever", text]))


@pytest.mark.parametrize(
    "text",
    [
        "http://host/@user?page=2",
        "mail me@host or see http://host",
        "a://b",
        "?token=x",
        "key=1",
        "http://h/?compass=north&bypass=1",
        "http://h:8000/@user, http://h:80: me@host.org",
        "http://a:1,http://b:2/x@y",
        "http://[::1]:8000/ and me@host.org",
        '{"a": "http://h", "b": "me@host.org"}',
        "--signal=B:USR1@600",
        "llama:3b@1a2b",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert without_secrets(text) == text
