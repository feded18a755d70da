"""A user's file: it is run once, and nothing that it does ends a command without a word."""

from __future__ import annotations

import json
import os
import py_compile
from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tests.credit.test_own_algorithms import GROUP
from tspo_cli.credit.user_code import code_digest, load_function
from tspo_cli.digests import file_digest

EXITS = [
    ("import sys\ndef rule(rows, config): sys.exit(0)", "line 2: SystemExit (0)"),
    ("def rule(rows, config): exit('bye')", "line 1: SystemExit (bye)"),
    ("def rule(rows, config): raise GeneratorExit", "line 1: GeneratorExit"),
    ("raise SystemExit", "cannot be run: SystemExit (line 1)"),
    ("class Odd(BaseException): pass\nraise Odd", "cannot be run: Odd (line 2)"),
    ("def rule(rows, config): rows.clear(); return []", "one advantage per turn, [2, 3], got []"),
    (
        "class Odd(Exception):\n    def __str__(self): return 1 / 0\n"
        "def rule(rows, config): raise Odd",
        "line 3: Odd",
    ),
    (
        "class Odd:\n    def __float__(self): raise KeyError('x')\n"
        "def rule(rows, config): return [[Odd()] * row.turns for row in rows]",
        "line 2: KeyError: 'x'",
    ),
    (
        "class Odd:\n    def __repr__(self): raise KeyError('x')\n"
        "def rule(rows, config): return Odd()",
        "line 2: KeyError: 'x'",
    ),
]


@pytest.mark.parametrize(("source", "message"), EXITS)
def test_code_that_exits_or_cannot_be_shown_is_one_line(
    tmp_path: Path, source: str, message: str
) -> None:
    """`sys.exit()` in it ended the command with exit code 0, and without a word."""
    (tmp_path / "rule.py").write_text(source)
    (tmp_path / "group.json").write_text(json.dumps(GROUP))
    done = run_tspo("credit", "group.json", "-a", "rule.py:rule", cwd=tmp_path)
    assert done.code == 3
    assert done.err.count("\n") == 1
    assert message in done.err


def test_an_outcome_that_exits_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("def reward(*_): raise SystemExit(0)\n")
    (tmp_path / "group.json").write_text(json.dumps(GROUP))
    arguments = ("group.json", "-a", "grpo", "--set", "credit.outcome=reward.py:reward")
    done = run_tspo("credit", *arguments, cwd=tmp_path)
    assert done.code == 3
    assert "line 1: SystemExit (0)" in done.err


def test_a_signal_that_stops_the_command_is_not_the_codes_doing(tmp_path: Path) -> None:
    body = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    (tmp_path / "rule.py").write_text(f"import os, signal, time\ndef rule(rows, config): {body}\n")
    (tmp_path / "group.json").write_text(json.dumps(GROUP))
    done = run_tspo("credit", "group.json", "-a", "rule.py:rule", cwd=tmp_path)
    assert (done.code, done.out) == (143, "")


def test_what_the_code_prints_does_not_get_among_results(tmp_path: Path) -> None:
    rows = "[[0.0] * row.turns for row in rows]"
    (tmp_path / "rule.py").write_text(
        f"print('loaded')\ndef rule(rows, config): print('ran'); return {rows}\n"
    )
    (tmp_path / "group.json").write_text(json.dumps(GROUP))
    done = run_tspo("credit", "group.json", "-a", "rule.py:rule", "--json", cwd=tmp_path)
    assert json.loads(done.out)["algorithm"] == "rule.py:rule"
    assert "loaded\nran\n" in done.err


def test_a_file_that_changes_or_goes_does_not_change_what_has_begun(tmp_path: Path) -> None:
    """Of the steps of a training the later ones used the code that somebody edited meanwhile."""
    file, spec = tmp_path / "rule.py", f"{tmp_path / 'rule.py'}:rule"
    file.write_text("def rule(answer, golds, trajectory): return 1.0\n")
    begun = file_digest(file)
    function = load_function(spec, "credit.outcome")
    file.write_text("def rule(answer, golds, trajectory): return 2.0\n")
    assert load_function(spec, "credit.outcome") is function
    assert code_digest(spec, "credit.outcome") == begun
    file.unlink()
    assert load_function(spec, "credit.outcome") is function


def test_what_python_compiled_of_an_earlier_file_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "rule.py"
    file.write_text("def rule(): return 1\n")
    py_compile.compile(str(file))
    times = file.stat().st_atime, file.stat().st_mtime
    file.write_text("def rule(): return 2\n")
    os.utime(file, times)
    assert load_function(f"{file}:rule", "credit.algorithm")() == 2
