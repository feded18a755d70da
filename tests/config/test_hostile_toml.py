"""TOML that no experiment needs is refused in one line, before it costs time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sweeps.sweep_file import read_sweep_file
from tspo_cli.errors import InvalidInputError

HOSTILE = {
    "nested lists": "seed = " + "[" * 100_000,
    "closed lists": "seed = " + "[" * 100_000 + "]" * 100_000,
    "nested tables": "a = " + "{a = " * 50_000,
    "dotted key": "a" + ".a" * 50_000 + " = 1",
    "spaced key": "a" + " . a" * 50_000 + " = 1",
    "quoted key": "a" + '."b"' * 50_000 + " = 1",
    "dotted table": "[a" + ".a" * 50_000 + "]",
    "a little of each": "[a" + ".a" * 14 + "]\nb" + ".b" * 14 + " = {c" + ".c" * 14 + " = 1}",
    "long integer": "seed = " + "7" * 6_000,
    "long hexadecimal": "seed = 0x" + "f" * 6_000,
    "string without an end": 'a = """' + '\\"""' * 100_000,
    "line without an end": 'a = "' + '\\"' * 200_000,
    "long key": "a" * 100_000 + " = 1",
    "large": "# filler\n" * 200_000,
    "many unknown keys": "".join(f"key{number} = 1\n" for number in range(20_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_toml_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(HOSTILE[name])
    for read in (lambda: load_config([path]), lambda: read_sweep_file(path)):
        with pytest.raises(InvalidInputError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
        assert ("digits" in str(caught.value)) == name.startswith(("long i", "long h"))


def test_the_limits_do_not_read_strings_and_comments() -> None:
    dots = "a." * 100
    prompt = "# {question} [[[[" + "[" * 100 + dots + "9" * 2_000
    for quoted in (f"'{prompt}'", f'"{prompt}"', f"'''\n{prompt}\n'''", f'"""{prompt} "" """'):
        assert load_config([], [f"rollout.prompt={quoted} # [[[[ {dots}"]).rollout.prompt


@pytest.mark.parametrize(
    "setting", ["seed=" + "[" * 9_000, "a" + ".a" * 9_000 + "=1", "seed=" + "1" * 6_000]
)
def test_hostile_settings_are_refused_in_one_line(setting: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_config([], [setting])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["{a = 1}", "[1]", "3", "[[]]"])
def test_a_baseline_that_is_no_name_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.sweep.toml"
    path.write_text(f"baseline = {value}\n[arms.a]\nseed = 1\n")
    with pytest.raises(InvalidInputError, match="baseline: expected one of the arms a"):
        read_sweep_file(path)


def test_the_command_says_it_with_exit_code_3(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(HOSTILE["dotted key"])
    done = run_tspo("config", "validate", path)
    assert done.code == 3
    assert done.err.startswith(f"error: {path}:1: ")
    assert done.err.count("\n") == 1
