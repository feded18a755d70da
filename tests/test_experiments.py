"""The scripts below `experiments/` import only names that exist, and do what their page says."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "experiments").rglob("*.py"))


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Module and name of every import from this repository, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        if module.split(".")[0] in {"tspo_cli", "experiments"}:
            yield from ((module, alias.name) for alias in node.names)


def exists(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    return importlib.util.find_spec(f"{module}.{name}") is not None


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_imports_exists(script: str) -> None:
    source = (ROOT / script).read_text(encoding="utf-8")
    names = sorted(set(imports(source)))
    assert [(module, name) for module, name in names if not exists(module, name)] == []


RELIABILITY = ROOT / "experiments" / "reliability"


def test_the_page_of_reliability_says_what_its_commands_do() -> None:
    page = (RELIABILITY / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"reliability[./](\w+)", page)) - {"md"}
    silent = [name for name in commands if "machine()" not in source_of(name)]
    assert silent == [], "they do not print the machine"
    outage = importlib.import_module("experiments.reliability.outage")
    assert f"in {len(outage.SCENARIOS) - 1} kinds of trouble" in page  # one is none


def source_of(name: str) -> str:
    return (RELIABILITY / f"{name}.py").read_text(encoding="utf-8")


def test_the_summary_of_the_parsers_is_that_of_their_table() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = page.split("| parser | ms |")[1].split("\n\n")[0]
    times = [row.split(" | ")[1] for row in table.splitlines()[2:]]
    least, most = (choose(times, key=number) for choose in (min, max))
    assert f"| {least} to {most} ms, growth linear |" in page


def number(text: str) -> float:
    return float(text.replace(",", ""))
