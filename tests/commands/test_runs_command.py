"""tspo runs from the command line."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from tests.commands.report_cli import tspo, tspo_json
from tests.permissions import permissions_count
from tests.reporting.tree import ITEM, make_evaluation, make_run
from tspo_cli import __version__, runs
from tspo_cli.config.schema import Config
from tspo_cli.config.tables import flatten
from tspo_cli.environment import environment
from tspo_cli.record_digests import changing


def test_runs_ls(demo: Path) -> None:
    found = tspo_json("runs", "ls", demo)["runs"]
    assert [(one["run"], one["state"], one["step"]) for one in found][2] == ("tspo-b", "running", 2)
    lines = tspo("runs", "ls", demo).stdout.splitlines()
    assert lines[0].split()[:3] == ["run", "algorithm", "seed"]
    assert lines[2].split() == ["tspo", "tspo", "1", "finished", "4/4", "test", "0.4"]


def test_runs_ls_says_what_an_outage_made_wrong(tmp_path: Path) -> None:
    make_run(tmp_path / "run", Config.model_validate({"train": {"steps": 4}}), 4, {4: 0.25})
    scores = runs.scores_file(runs.eval_folder(tmp_path / "run", 4), "test")
    runs.write_json(scores, runs.read_json(scores) | {"failed": 12})
    assert tspo_json("runs", "ls", tmp_path)["runs"][0]["failed"] == {"test": 12}
    assert "test 0.25 (12 failed)" in tspo("runs", "ls", tmp_path).stdout


def test_runs_show(demo: Path) -> None:
    found = tspo_json("runs", "show", demo / "tspo")
    assert found["seconds"] == 6.0
    assert [one["step"] for one in found["evaluations"]] == [0, 2, 4]
    text = tspo("runs", "show", demo / "tspo").stdout
    assert "tspo train tspo.toml" in text


def test_runs_show_fits_a_screen(demo: Path) -> None:
    """What the run reached comes before its settings, and defaults are only counted."""
    text = tspo("runs", "show", demo / "tspo").stdout
    assert len(text.splitlines()) < 120
    defaults = flatten(Config().section_dict())
    config = flatten(tspo_json("runs", "show", demo / "tspo")["config"])
    shown = {line.split()[0] for line in text.splitlines() if line}
    assert {key for key in config if key in shown} == {
        key for key, value in config.items() if value != defaults.get(key)
    }
    parts = [text.index(f"\n{part}") for part in ("metrics", "evaluation", "settings")]
    assert parts == sorted(parts)
    assert "more have their defaults; --json shows them" in text


def test_runs_print_no_secret_of_a_url(demo: Path, tmp_path: Path) -> None:
    """The configuration has it, for --resume; records of others may have it anywhere."""
    url = "http://bob:hunter2@127.0.0.1:9/retrieve?token=hunter2"
    settings = {"retriever": {"url": [url]}, "vllm": {"url": [url]}, "train": {"steps": 2}}
    run = tmp_path / "run"
    make_run(run, Config.model_validate(settings), 2, {0: 0.1})
    (run / "command.txt").write_text(f"tspo train x --set retriever.url={url}\n")
    status = runs.read_json(run / "status.json")
    runs.write_json(
        run / "status.json", status | {"state": "failed", "warnings": [f"{url} is down"]}
    )
    tables = [["report", run, "--table", "all", "--format", form] for form in ("md", "json")]
    page = tmp_path / "page.html"
    told = [["show", run], ["diff", run, demo / "tspo"], ["ls", run], ["watch", run]]
    shown = [["runs", *words, *more] for words in told for more in ([], ["--json"])]
    for words in (*shown, *tables, ["report", run, "--html", page]):
        output = tspo(*words).output
        assert output
        assert "hunter2" not in output, words
    assert "hunter2" not in page.read_text()
    assert "http://***@127.0.0.1:9" in tspo("runs", "show", run).stdout


def test_runs_diff(demo: Path) -> None:
    found = tspo_json("runs", "diff", demo / "tspo", demo / "grpo")
    assert found["config"] == {"credit.algorithm": ["tspo", "grpo"]}
    assert found["metrics"]["test/em"] == [0.4, 0.15]
    text = tspo("runs", "diff", demo / "tspo", demo / "warmstart").stdout
    assert "optimizer.lr" in text
    assert "config: no difference" in tspo("runs", "diff", demo / "tspo", demo / "tspo").stdout


def test_runs_diff_of_evaluations_names_method_model_and_digests(tmp_path: Path) -> None:
    for method, corpus in (("rag", "c1"), ("ircot", "c2")):
        make_evaluation(tmp_path / method, method, [ITEM], model=f"model-{method}")
        path = tmp_path / method / "eval.json"
        record = runs.read_json(path)
        record["results"][0]["digests"] = {"corpus": corpus, "data": "same"}
        runs.write_json(path, record)
    assert tspo_json("runs", "diff", tmp_path / "rag", tmp_path / "ircot")["config"] == {
        "method": ["rag", "ircot"],
        "model": ["model-rag", "model-ircot"],
        "digests.test.corpus": ["c1", "c2"],
    }


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "bad", Config(), 2, {2: 0.5})
    (tmp_path / "bad" / runs.CONFIG_NAME).write_text("{", encoding="utf-8")
    done = tspo("runs", "ls", tmp_path)
    assert (done.exit_code, done.stdout) == (3, "")
    assert "config.resolved.json" in done.stderr


def test_a_run_records_the_version_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1")
    versions = environment()["versions"]
    assert (versions["tspo-cli"], versions["torch"]) == (__version__, "0.0.1")


def test_a_run_without_a_step_is_not_started(tmp_path: Path) -> None:
    for name in ("opened", "torn", "stepped"):
        make_run(tmp_path / name, Config(), 1, {})
        (tmp_path / name / "status.json").unlink()
    (tmp_path / "opened" / "metrics.jsonl").unlink()
    (tmp_path / "torn" / "metrics.jsonl").write_text('{"step": 1')
    found = tspo_json("runs", "ls", tmp_path)["runs"]
    assert {row["run"]: row["state"] for row in found} == {
        "opened": "not started",
        "torn": "not started",
        "stepped": "unknown",
    }
    assert "not started" in tspo("runs", "ls", tmp_path).stdout
    assert tspo_json("runs", "show", tmp_path / "opened")["state"] == "not started"


def test_the_commit_is_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A git hook names its own repository in variables, and a machine may have no git."""
    commit = environment()["git"]
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert environment()["git"] == commit
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["git"] is None


def test_an_unreadable_run_hides_no_other(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "runs")
    first, *others = [run["run"] for run in tspo_json("runs", "ls", tmp_path / "runs")["runs"]]
    (tmp_path / "runs" / first / "status.json").write_text('{"state": 3')
    listed = tspo("runs", "ls", tmp_path / "runs")
    assert listed.exit_code == 3
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == others
    assert [first in line for line in listed.stderr.splitlines()] == [True]
    found = json.loads(tspo("runs", "ls", tmp_path / "runs", "--json").stdout)
    assert [run["run"] for run in found["runs"]] == others
    assert list(found["unreadable"]) == [first]


def test_a_run_with_a_closed_folder_hides_no_other(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "runs")
    first, *others = [run["run"] for run in tspo_json("runs", "ls", tmp_path / "runs")["runs"]]
    for folder in ("eval", "eval/step_000002"):
        closed = tmp_path / "runs" / first / folder
        closed.chmod(0)
        with permissions_count():
            listed = tspo("runs", "ls", tmp_path / "runs")
        closed.chmod(0o755)
        assert listed.exit_code == 3
        assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == others
        (line,) = listed.stderr.splitlines()
        assert f"{closed}" in line
        assert "give this user the right to read it" in line


def test_runs_show_has_every_command_that_wrote_the_run(demo: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(demo / "tspo", tmp_path / "run"))
    commands = ["tspo train tspo.toml", "tspo train tspo.toml --resume", "tspo train b --resume"]
    with changing(run / "command.txt"):
        (run / "command.txt").write_text("\n".join(commands) + "\n")
    lines = [line.split(maxsplit=1) for line in tspo("runs", "show", run).stdout.splitlines()]
    assert [line[1] for line in lines if line and line[0] in ("command", "resumed")] == commands
    found = tspo_json("runs", "show", run)
    assert [found["command"], *found["resumed"]] == commands
