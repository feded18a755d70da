"""Nothing from data, names or settings steers a terminal, a spreadsheet or LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tspo_cli import console
from tspo_cli.reporting.inspect.selection import Pair
from tspo_cli.reporting.inspect.transcript import side_by_side, transcript
from tspo_cli.reporting.rendering.render import render
from tspo_cli.reporting.rendering.table import Column, Format, Table, cells
from tspo_cli.text.printable import one_line, printable, printable_values

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://x\x1b\\\\click",
    "8-bit escape": "\x9b31m",
    "erase": "a\rb\x08\x7f",
    "bell and null": "\x07\x00",
    "override": "\u202eevil\u202c",
    "isolate": "\u2066x\u2069",
    "marks": "\u200e\u200f\u061c",
    "line ends": "a\u2028b\u2029c\x85d",
    "half a character": "\ud83d",
}
HALF = "half a character"
EVERYTHING = "".join(text for name, text in HOSTILE.items() if name != HALF)
"""What questions and passages may have; half a surrogate pair is refused there."""
RECORDED = "".join(HOSTILE.values())
"""What a model can write, and records hold."""
SAFE = "\n\t"


def is_harmless(text: str) -> bool:
    return printable(text) == text


@pytest.mark.parametrize("name", HOSTILE)
def test_every_output_replaces_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = HOSTILE[name]
    assert not is_harmless(hostile)
    console.say(hostile)
    console.warn(hostile)
    console.error(hostile + "\nsecond")
    console.result(hostile)
    console.result_json({hostile: [hostile]})
    with console.progress(hostile, 1) as advance:
        advance(1, hostile)
    out, err = capsys.readouterr()
    assert is_harmless(out)
    assert is_harmless(err)
    assert "\u240asecond\n" in err
    assert {hostile: [hostile]} == json.loads(out[out.index("{") :])


def test_ordinary_text_of_any_script_stays() -> None:
    text = "naïve 日本語 עברית العربية हिन्दी 👩\u200d🔬 tab\there\nline"
    assert printable(text) == text
    assert one_line("a\nb") == "a\u240ab"
    assert printable_values({"\x1b": ["\x9b", 1, None]}) == {"\u241b": ["\ufffd", 1, None]}


def test_styled_results_keep_their_colours_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.result("\x1b[1mbold\x1b[0m \x1b]0;owned\x07 \x1b[2J", styled=True)
    out = capsys.readouterr().out
    assert out.startswith("\x1b[1mbold\x1b[0m ")
    assert out.count("\x1b") == 2


@pytest.mark.parametrize("form", list(Format))
def test_tables_replace_it_in_every_form(form: Format) -> None:
    table = Table(
        name="t",
        title=RECORDED,
        columns=(Column(RECORDED), Column("em", numeric=True)),
        rows=(cells([RECORDED, "0.5"]),),
        records=[{"run": RECORDED, "em": 0.5}],
        notes=(RECORDED,),
        commands=(f"tspo {RECORDED}\n\\input{{x}}",),
    )
    tables = [table] if form is Format.csv else [table, table]
    assert is_harmless(render(tables, form))


@pytest.mark.parametrize("color", [True, False])
def test_trajectories_replace_it_in_every_field(color: bool) -> None:
    passage = {"id": RECORDED, "contents": RECORDED, "score": 1.0}
    search = {"kind": RECORDED, "text": RECORDED, "query": RECORDED, "passages": [passage]}
    search |= {"search_error": RECORDED, "call_error": RECORDED, "thought": RECORDED}
    rollout = {"class": RECORDED, "refused": RECORDED, "answer": RECORDED, "turns": [search]}
    group = {"group": [RECORDED] * 3, "question": RECORDED, "golden_answers": [RECORDED]}
    group |= {"group_class": RECORDED, "trajectories": [rollout]}
    pair = Pair(RECORDED, RECORDED, [RECORDED], rollout, rollout)
    for text in (
        transcript([group], color=color),
        side_by_side([pair], (RECORDED, RECORDED), color=color),
    ):
        assert "red" in text
        own = re.sub(r"\x1b\[(?!31m)[0-9;]*m", "", text)
        assert is_harmless(own)


@pytest.mark.parametrize("formula", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1"])
def test_a_formula_in_csv_is_a_text(formula: str) -> None:
    records = [{"run": formula, "em": -0.5, "note": "-0.25"}]
    table = Table("t", "t", (Column("run"),), (cells([formula]),), records)
    [row] = csv.DictReader(io.StringIO(render([table], Format.csv)))
    assert row == {"run": f"'{formula}", "em": "-0.5", "note": "-0.25"}


def test_passages_questions_and_names_on_the_command_line(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    text = f"mill {EVERYTHING}"
    corpus.write_text(json.dumps({"id": EVERYTHING, "title": EVERYTHING, "text": text}) + "\n")
    questions = tmp_path / "questions.jsonl"
    question = {"id": EVERYTHING, "question": text, "golden_answers": ["the", EVERYTHING]}
    questions.write_text(json.dumps(question) + "\n" + json.dumps(question) + "\n")
    run = tmp_path / "a\x1b[31m\u202eb"
    shutil.copytree(Path("tests/fixtures/run_0_1_0/rl").resolve(), run)
    index = tmp_path / "index"
    for command in (
        ["index", "build", corpus, "--out", index],
        ["index", "search", index, text],
        ["index", "search", index, text, "--json"],
        ["data", "check", questions],
        ["train", "tiny/tspo", "--set", f"train.steps={EVERYTHING.replace(chr(0), '')}"],
        ["runs", "show", run],
        ["runs", "ls", tmp_path],
        ["inspect", run],
        *(["report", run, "--format", form] for form in ("table", "md", "csv", "latex", "json")),
        ["report", run, "--html", tmp_path / "page.html"],
    ):
        done = run_tspo(*command)
        assert is_harmless(done.out), command
        assert is_harmless(done.err), command
    assert is_harmless((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_a_name_with_a_line_end_makes_no_line_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run\nforged  tspo  0  finished  9/9  em 1"
    copy = tmp_path / "copy"
    for folder in (run, copy):
        shutil.copytree(Path("tests/fixtures/run_0_1_0/rl").resolve(), folder)
    for command in (
        *(("runs", "ls", tmp_path), ("runs", "show", run), ("runs", "diff", run, copy)),
        *(("inspect", run), ("credit", run, "-a", "grpo"), ("doctor", run)),
        *(("report", run), ("report", run, "--html", run / "page.html")),
        ("eval", run / "missing", "--data", run, "--out", run),
    ):
        done = run_tspo(*command, cwd=tmp_path)
        lines = [*done.out.splitlines(), *done.err.splitlines()]
        assert not [line for line in lines if line.startswith("forged")], command
        if command[1] in ("ls", "show"):
            assert any("run\u240aforged" in line for line in lines), command


@pytest.mark.parametrize(
    ("number", "counted", "agreeing", "part"),
    [
        (0, "0 cells", "0 cells are", "0 of 1 cell are"),
        (1, "1 cell", "1 cell is", "1 of 2 cells is"),
        (2_000, "2,000 cells", "2,000 cells are", "2,000 of 2,001 cells are"),
    ],
)
def test_words_agree_with_their_number(number: int, counted: str, agreeing: str, part: str) -> None:
    assert console.counted(number, "cell") == counted
    assert console.agreeing(number, "cell is", "cells are") == agreeing
    assert console.part_of(number, number + 1, "cell", "is", "are") == part
