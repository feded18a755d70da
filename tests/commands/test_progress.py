"""Progress where no terminal is: a log file, a job of a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path

import pytest

from tspo_cli.commands.options import say_what_is_opened
from tspo_cli.console import _plain_lines, now_and_then, patiently, say_meanwhile
from tspo_cli.data.rows import read_rows


def lines_of(capsys: pytest.CaptureFixture[str], total: int | None, seconds: float) -> list[str]:
    """What 40 units of work say that take `seconds` each."""
    now = [0.0]
    advance = _plain_lines("steps", total, lambda: now[0])
    for _ in range(40):
        now[0] += seconds
        advance(1, "a note")
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, range(4, 41, 4)), (0.125, range(8, 41, 8)), (0.001, [40])]
)
def test_fast_work_says_every_tenth_but_one_line_a_second(
    capsys: pytest.CaptureFixture[str], seconds: float, said: Sequence[int]
) -> None:
    expected = [f"steps {done}/40 a note" for done in said]
    assert lines_of(capsys, 40, seconds) == expected


@pytest.mark.parametrize(("seconds", "first"), [(213, 1), (60, 1), (25, 3), (16, 4)])
def test_slow_work_says_something_every_minute(
    capsys: pytest.CaptureFixture[str], seconds: float, first: int
) -> None:
    """At 213 s a step, the first tenth of 100 steps would be silent for half an hour."""
    said = lines_of(capsys, 40, seconds)
    assert said[0] == f"steps {first}/40 a note"
    done = [0, *(int(line.split()[1].split("/")[0]) for line in said)]
    gaps = [later - earlier for earlier, later in pairwise(done)]
    assert all((gap - 1) * seconds < 60 for gap in gaps)


def test_work_that_goes_on_counts_from_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """A run of 400 steps that was resumed after 360 counted 1/40."""
    seconds = count()
    advance = _plain_lines("steps", 400, lambda: next(seconds), done=360)
    for _ in range(40):
        advance(1)
    assert capsys.readouterr().err.splitlines() == ["steps 400/400"]
    advance = _plain_lines("steps", 400, lambda: next(seconds), done=7)
    for _ in range(40):
        advance(1)
    assert capsys.readouterr().err.splitlines() == ["steps 40/400"]


def test_an_unknown_total_is_said_as_often(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, None, 30)[0] == "steps 2 a note"
    assert lines_of(capsys, None, 0.001) == []


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, []), (1, [30]), (40, [*range(1, 41)])])
def test_work_beside_a_progress_display_speaks_twice_a_minute(
    capsys: pytest.CaptureFixture[str], seconds: float, expected: list[int]
) -> None:
    now = [0.0]
    advance = now_and_then("step 5: evaluating films", 40, lambda: now[0])
    for _ in range(40):
        now[0] += seconds
        advance()
    said = capsys.readouterr().err.splitlines()
    assert said == [f"step 5: evaluating films {done}/40" for done in expected]


def test_a_person_who_waits_is_told_and_a_log_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a log an error is the only line of a command that failed."""
    say_meanwhile("opening data")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say_meanwhile("opening data")
    assert capsys.readouterr().err == "opening data\n"


def test_a_log_is_told_of_a_large_model_before_it_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "sft"
    (run / "model").mkdir(parents=True)
    (run / "config.resolved.json").write_text("{}")
    (run / "model" / "config.json").write_text("{}")
    weights = run / "model" / "model.safetensors"
    weights.touch()
    os.truncate(weights, 538_000_000)
    data = ["a.jsonl", "b.jsonl", "", "c.jsonl", "d.jsonl"]
    for model in (run, run / "model"):
        say_what_is_opened(str(model), data)
        assert capsys.readouterr().err == (
            f"opening a.jsonl, b.jsonl, c.jsonl, ..., {model} (513.1 MiB)\n"
        )
    os.truncate(weights, 1_000_000)
    for small in (str(run), "", "Qwen/Qwen2.5-3B"):
        say_what_is_opened(small, data)
        assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say_what_is_opened("Qwen/Qwen2.5-3B", ["train.jsonl", "http://bob:word@h:8000"])
    assert capsys.readouterr().err == "opening train.jsonl, http://***@h:8000, Qwen/Qwen2.5-3B\n"


def test_reading_that_is_long_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]

    def lines() -> Iterator[int]:
        for number in range(1000):
            now[0] = number / 30
            yield number

    assert [*patiently(lines(), "reading q.gz", lambda: now[0])] == [*range(1000)]
    assert capsys.readouterr().err.splitlines() == ["reading q.gz: 512 lines so far"]
    path = tmp_path / "q.jsonl"
    path.write_text("\n" * 1000 + '{"id": "1", "question": "q", "golden_answers": ["Ada"]}\n')
    assert [number for number, _ in read_rows(path)] == [1001]
    assert capsys.readouterr().err == "", "nothing is said of short work"
