"""The scripts below `experiments/` import only names that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
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
