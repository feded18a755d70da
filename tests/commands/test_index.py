"""`tspo index` through its commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import run_tspo
from tspo_cli.commands.index import app
from tspo_cli.data.corpus.chunks import Chunking
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError, UsageError
from tspo_cli.retrieval.passages import write_passages

RUN = CliRunner()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    records = [
        {"id": "a", "contents": '"Blue Lake"\nThe lake lies in the north.'},
        {"id": "b", "title": "Hill", "text": "No water\nhere, but a lake nearby"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _fails(error: type[TspoError], *arguments: object) -> str:
    result = RUN.invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, error), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def _json(*arguments: object) -> dict[str, object]:
    result = RUN.invoke(app, [*(str(argument) for argument in arguments), "--json"])
    assert result.exit_code == 0, result.output
    parsed: dict[str, object] = json.loads(result.stdout)
    return parsed


def test_build_info_search_verify(corpus: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    built = _json("build", corpus, "--out", index, "--set", "k1=1.2", "--set", "b=0.4")
    assert built["passages"] == 2
    assert built["parameters"] == {
        "method": "lucene",
        "k1": 1.2,
        "b": 0.4,
        "stop_words": "lucene",
        "stemmer": "none",
    }
    assert _json("info", index) == built | {"checked": "sizes"}
    shown = RUN.invoke(app, ["info", str(index)]).stdout.split("\n")
    assert {tuple(line.split()) for line in shown} >= {("tokens", "words"), ("min_word", "2")}
    assert _json("verify", index) == {"index": str(index), "ok": True, "files": 7, "corpus": "same"}
    found = _json("search", index, "blue lake", "zebra", "-k", "1")
    hit = {"id": "a", "title": "Blue Lake", "contents": '"Blue Lake"\nThe lake lies in the north.'}
    results = found["results"]
    assert isinstance(results, list)
    assert results[0]["hits"][0].pop("score") > 0
    assert results == [{"query": "blue lake", "hits": [hit]}, {"query": "zebra", "hits": []}]


def test_results_for_people_are_on_stdout_and_messages_on_stderr(
    corpus: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    built = RUN.invoke(app, ["build", str(corpus), "--out", str(index)])
    assert built.stdout == f"{index}: bm25 index of 2 passages\n"
    assert "reading passages" in built.stderr
    found = RUN.invoke(app, ["search", str(index), "lake", "zebra"])
    assert found.stdout.splitlines()[0] == "lake"
    assert "Blue Lake" in found.stdout
    assert "No water here" in found.stdout
    assert found.stdout.splitlines()[-2:] == ["zebra", "  no hits"]
    assert "k1              1.5" in RUN.invoke(app, ["info", str(index)]).stdout
    assert (
        "files as built; the corpus is the same" in RUN.invoke(app, ["verify", str(index)]).stdout
    )


@pytest.mark.parametrize("change", ["cut", "longer", "missing", "a directory"])
def test_info_looks_for_every_file_of_the_index(corpus: Path, tmp_path: Path, change: str) -> None:
    index = tmp_path / "index"
    _json("build", corpus, "--out", index)
    names = json.loads((index / "manifest.json").read_text())["files"]
    assert len(names) > 3
    for name in names:
        file, whole = index / name, (index / name).read_bytes()
        file.unlink()
        if change == "a directory":
            file.mkdir()
        elif change != "missing":
            file.write_bytes(whole[:-1] if change == "cut" else whole + b"0")
        assert f"{file}: expected {len(whole):,} bytes, got " in _fails(
            InvalidInputError, "info", index
        )
        file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
        file.write_bytes(whole)
    assert _json("info", index)["checked"] == "sizes"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("passages", 10**9, "expected 1,000,000,000 passages, got "),
        ("parameters", {"k1": "x"}, "k1: "),
        ("parameters", {"nprobe": 4}, "setting 'nprobe': unknown for this kind of index"),
    ],
)
def test_a_manifest_that_its_files_contradict(
    corpus: Path, tmp_path: Path, key: str, value: object, said: str
) -> None:
    index = tmp_path / "index"
    _json("build", corpus, "--out", index)
    manifest = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    for command in (["info", index], ["verify", index], ["search", index, "lake"]):
        assert said in _fails(InvalidInputError, *command)


def test_verify_does_not_wait_for_a_pipe(corpus: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    _json("build", corpus, "--out", index)
    corpus.unlink()
    os.mkfifo(corpus)
    assert f"{corpus}: expected a file, got a named pipe" in _fails(
        InvalidInputError, "verify", index
    )


def test_info_says_which_command_checks_the_contents(corpus: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    _json("build", corpus, "--out", index)
    file = index / next(iter(json.loads((index / "manifest.json").read_text())["files"]))
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))  # the same size
    said = RUN.invoke(app, ["info", str(index)]).stdout.splitlines()[-1]
    assert said == (
        f"sizes are as built, contents were not read; `tspo index verify {index}` checks them"
    )
    assert str(file) in _fails(InvalidInputError, "verify", index)


def test_errors_name_what_to_do(corpus: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert "KEY=VALUE" in _fails(UsageError, "build", corpus, "--out", index, "--set", "k1")
    assert "did you mean k1" in _fails(
        InvalidInputError, "build", corpus, "--out", index, "--set", "k11=2"
    )
    assert "no such file" in _fails(
        MissingResourceError, "build", tmp_path / "none", "--out", index
    )
    assert "no such index" in _fails(MissingResourceError, "search", index, "lake")
    assert "not an index" in _fails(InvalidInputError, "info", tmp_path)
    RUN.invoke(app, ["build", str(corpus), "--out", str(index)])
    assert "--overwrite" in _fails(InvalidInputError, "build", corpus, "--out", index)
    assert (
        RUN.invoke(app, ["build", str(corpus), "--out", str(index), "--overwrite"]).exit_code == 0
    )
    (index / "passages.jsonl").write_text("changed")
    assert "expected sha256" in _fails(InvalidInputError, "verify", index)


def test_a_query_that_cannot_be_searched_for_fails_alone_and_in_the_exit_code(
    corpus: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    RUN.invoke(app, ["build", str(corpus), "--out", str(index)])
    found = RUN.invoke(app, ["search", str(index), "", "lake \udcff\ud800", "x" * 40_000, "--json"])
    assert isinstance(found.exception, InvalidInputError)
    assert str(found.exception).startswith("2 of 3 queries")
    empty, strange, long = json.loads(found.stdout)["results"]
    assert (empty["error"], empty["hits"]) == ("query: empty", [])
    assert [hit["id"] for hit in strange["hits"]] == ["a", "b"]
    assert strange["query"] == "lake ??"
    assert long["error"].startswith("query: expected at most 32768")
    assert RUN.invoke(app, ["search", str(index), "zebra"]).exit_code == 0, "no hits are an answer"


def test_the_estimate_speaks_to_people_and_to_machines(corpus: Path, tmp_path: Path) -> None:
    arguments = ["build", str(corpus), "--out", str(tmp_path / "index"), "--estimate"]
    names = [
        "passages",
        "passages_bytes",
        "bm25_index_bytes",
        "bm25_scratch_bytes",
        "bm25_memory_bytes",
    ]
    foreseen = _json(*arguments)
    assert list(foreseen) == ["kind", *names, "bm25_seconds"]
    assert all(isinstance(foreseen[name], int) for name in names)
    shown = RUN.invoke(app, arguments).stdout
    assert "bm25_memory     " in shown
    assert "KiB" in shown
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "line",
    [b'{"id": "c", "contents": "x", "z": ' + b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}"],
)
def test_json_that_no_one_can_hold_is_an_error_of_its_line(
    line: bytes, corpus: Path, tmp_path: Path
) -> None:
    corpus.write_bytes(corpus.read_bytes() + line + b"\n")
    assert f"{corpus.name}:3: expected one JSON object per line" in _fails(
        InvalidInputError, "build", corpus, "--out", tmp_path / "index"
    )


def test_a_place_that_cannot_be_written_is_one_line(corpus: Path, tmp_path: Path) -> None:
    done = run_tspo("index", "build", corpus, "--out", corpus / "index")
    assert done.code == 3
    assert str(corpus) in done.err
    assert done.err.count("\n") == 1


def test_k_below_one_is_a_usage_error(tmp_path: Path) -> None:
    assert RUN.invoke(app, ["search", str(tmp_path), "lake", "-k", "0"]).exit_code == 2


def test_the_folder_of_a_data_set_names_its_corpus(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A data set\n")
    (tmp_path / "qrels").mkdir()
    for name in ("corpus.jsonl", "corpus.jsonl.gz"):
        corpus = corpus.rename(tmp_path / name)
        refused = _fails(InvalidInputError, "build", tmp_path, "--out", tmp_path / "index")
        assert refused.endswith(f"name the file {corpus}")


def test_a_corpus_of_long_documents_gets_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["word " * 1001, "\u5317\u4eac" * 501, "short"]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"id": t[:4], "contents": t}) + "\n" for t in texts))
    write_passages([path], tmp_path)
    assert "2 of 3 documents have more than 1,000 words" in capsys.readouterr().err
    write_passages([path], tmp_path, Chunking(400))
    assert "more than 1,000" not in capsys.readouterr().err
    path.write_text("".join(json.dumps({"id": t, "text": t[:4000]}) + "\n" for t in texts[:1]))
    write_passages([path], tmp_path)
    assert "more than 1,000" not in capsys.readouterr().err
