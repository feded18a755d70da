"""Answers that an evaluation goes on with are records like all others: one of another form is one
line that names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.evaluation.reader_server import Reader
from tspo_cli.commands.app import app
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.runs import read_json, read_jsonl_gz, write_json, write_jsonl_gz

Place = tuple[Path, list[object]]


@pytest.fixture
def place(films: Path, reader: tuple[Reader, str], tmp_path: Path) -> Place:
    """A finished evaluation of two questions without digests, and the words that made it."""
    out, data = tmp_path / "evals", tmp_path / "films.jsonl"
    question = json.loads((films / "films.jsonl").read_text().splitlines()[0])
    data.write_text("".join(json.dumps(question | {"id": name}) + "\n" for name in ("1", "2")))
    words = ["eval", "reader", "--endpoint", reader[1], "--index", films / "index", "--out", out]
    words += ["--data", data, "--set", "retriever.k=1"]
    assert run(words).exit_code == 0
    (out / "digests.jsonl").unlink()
    return out, words


def run(words: list[object]) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@contextmanager
def unfinished(place: Place) -> Iterator[list[dict[str, Any]]]:
    """The lines of the evaluation as if it had been killed after its answers."""
    out, _ = place
    items = list(read_jsonl_gz(out / "films.items.jsonl.gz"))
    lines: list[Any] = [{"signature": read_json(out / "films.json")["signature"]}]
    lines += [{"key": item["key"], "record": item, "seconds": 0.5} for item in items]
    yield lines
    for path in out.iterdir():
        path.unlink()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / "films.partial.jsonl").write_text(text)


def refusal(place: Place, kind: type[Exception] = InvalidInputError) -> str:
    out, words = place
    done = run([*words, "--resume"])
    assert isinstance(done.exception, kind), done.output
    said = str(done.exception)
    assert said.startswith(str(out))
    assert "\n" not in said
    return said.removeprefix(f"{out}/")


def test_whole_answers_are_taken(place: Place) -> None:
    before = (place[0] / "films.items.jsonl.gz").read_bytes()
    with unfinished(place):
        pass
    assert run([*place[1], "--resume"]).exit_code == 0
    assert (place[0] / "films.items.jsonl.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("key", ..., "key: Field required"),
        ("key", 5, "key: Input should be"),
        ("record", ..., "record: Field required"),
        ("record", "x", "record: Input should be a valid dictionary"),
        ("seconds", "x", "seconds: Input should be a valid number"),
        ("seconds", -1, "seconds: Input should be greater than or equal to 0"),
    ],
)
def test_lines_of_another_form(place: Place, key: str, value: object, said: str) -> None:
    with unfinished(place) as lines:
        del lines[1][key]
        if value is not ...:
            lines[1][key] = value
    assert refusal(place).startswith(f"films.partial.jsonl:2: not a record of tspo: {said}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("em", None),
        ("em", 5),
        ("searches", -1),
        ("failed", "no"),
        ("trajectory", 5),
        ("golden_answers", "Ada"),
        ("gold_recall", ...),
    ],
)
def test_answers_of_another_form(place: Place, key: str, value: object) -> None:
    with unfinished(place) as lines:
        del lines[2]["record"][key]
        if value is not ...:
            lines[2]["record"][key] = value
    assert refusal(place).startswith(f"films.partial.jsonl:3: not a record of tspo: {key}: ")


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([], "timings.json: "),
        ({}, "timings.json: has no seconds of films; put back a copy"),
        ({"films": 5}, "timings.json: not a record of tspo: films: "),
        ({"films": {"mean": 1.0}}, "timings.json: not a record of tspo: films.p50: Field required"),
    ],
)
def test_times_of_another_form(place: Place, times: object, said: str) -> None:
    write_json(place[0] / "timings.json", times)
    assert refusal(place).startswith(said)
    (place[0] / "timings.json").unlink()
    assert refusal(place, MissingResourceError) == "timings.json: no such file"


def test_the_cost_of_an_evaluation_needs_times_of_their_form(place: Place) -> None:
    write_json(place[0] / "timings.json", {"films": 5})
    done = run(["report", place[0], "--table", "cost"])
    assert isinstance(done.exception, InvalidInputError)
    assert "timings.json: not a record of tspo: films: " in str(done.exception)


@pytest.mark.parametrize("change", ["no key", "no seconds", "missing"])
def test_answers_that_are_taken_back(place: Place, change: str) -> None:
    """--resume opens what is finished again where a search failed."""
    out, _ = place
    items = list(read_jsonl_gz(out / "films.items.jsonl.gz"))
    write_json(out / "films.json", read_json(out / "films.json") | {"failed": 1})
    items[0]["failed"] = True
    if change == "no key":
        del items[1]["key"]
    elif change == "no seconds":
        items[1]["key"] = "films/other"
    write_jsonl_gz(out / "films.items.jsonl.gz", items)
    if change == "missing":
        (out / "films.items.jsonl.gz").unlink()
    if change == "missing":
        assert refusal(place, MissingResourceError) == "films.items.jsonl.gz: no such file"
    elif change == "no key":
        assert refusal(place) == (
            "films.items.jsonl.gz:2: not a record of tspo: key: Field required"
        )
    else:
        assert refusal(place).startswith("timings.json: has no seconds of films/other; ")


@pytest.fixture
def averaged(place: Place, tmp_path: Path) -> Place:
    """The same with a second data set, so that the items of both are read for their average."""
    out, words = place
    more = tmp_path / "more.jsonl"
    more.write_text((tmp_path / "films.jsonl").read_text())
    words = [*words, "--data", more]
    assert run([*words, "--resume"]).exit_code == 0
    (out / "digests.jsonl").unlink(missing_ok=True)
    return out, words


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([1], "expected a JSON object, found list"),
        (5, "expected a JSON object, found int"),
        ({}, "dataset: Field required"),
        ({"em": "0.5"}, "em: Input should be a valid number"),
        ({"em": 7}, "em: Input should be less than or equal to 1"),
        ({"failed": "x"}, "failed: Input should be a valid integer"),
    ],
)
def test_scores_of_another_form_are_named(place: Place, record: Any, said: str) -> None:
    """They ended in a traceback, or as a score of 7."""
    path = place[0] / "films.json"
    write_json(path, read_json(path) | record if isinstance(record, dict) and record else record)
    assert said in refusal(place)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda items: [[1], *items], ":1: expected a JSON object, found list"),
        (lambda items: [items[0] | {"em": "1"}, items[1]], ":1: not a record of tspo: em: Input"),
        (lambda items: [items[0] | {"em": 7}, items[1]], ":1: not a record of tspo: em: Input"),
        (lambda items: [*items, items[0]], ":3: expected each question once"),
        (lambda items: items[:1], ": is of another evaluation than the scores beside it"),
        (
            lambda items: [item | {"em": 1 - item["em"]} for item in items],
            ": is of another evaluation than the scores beside it",
        ),
    ],
)
def test_items_of_another_form_or_evaluation_are_named(
    averaged: Place, change: Any, said: str
) -> None:
    path = averaged[0] / "films.items.jsonl.gz"
    write_jsonl_gz(path, change(list(read_jsonl_gz(path))))
    (averaged[0] / "digests.jsonl").unlink(missing_ok=True)
    assert refusal(averaged).startswith(f"films.items.jsonl.gz{said}")
    found = run(["doctor", averaged[0]])
    assert found.exit_code == 1
    assert said in found.stdout
    assert said in str(run(["report", averaged[0], "--table", "main"]).exception)
