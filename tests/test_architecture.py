"""The house rules that a reader should be able to rely on: read from the source, file by file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tspo_cli"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
FLOORS = [
    "data",
    "retrieval",
    "models",
    "rollout",
    "credit",
    "training",
    "evaluation",
    "reporting",
    "demo",
    "commands",
]
GROUND = {"errors", "console", "runs", "record_forms", "config", "packages", "text"}
# An algorithm is one file, with its options and defaults. The configuration builds [credit] from
# these files, so they lie below it: of config they may import nothing but the base of a section.
BELOW_CONFIG = (
    "tspo_cli.credit.algorithms",
    "tspo_cli.credit.credit_section",
    "tspo_cli.credit.find_algorithm",
    "tspo_cli.credit.user_code",
)
HEAVY = {
    *(
        "torch",
        "transformers",
        "deepspeed",
        "tokenizers",
        "safetensors",
        "datasets",
        "huggingface_hub",
        "vllm",
    ),
    *(
        "numpy",
        "pandas",
        "scipy",
        "statsmodels",
        "matplotlib",
        "bm25s",
        "faiss",
        "sentence_transformers",
    ),
    *("fastapi", "uvicorn", "httpx", "jinja2", "pydantic"),
}
LIGHT_ROOMS = {"", "errors", "console", "runs", "packages", "commands", "text"}
MOST_LINES = 400


def violations(file: str, source: str) -> list[str]:
    """Every rule that `source` breaks as the module `file` (path below the package)."""
    tree = ast.parse(source)
    room = file.split("/")[0].removesuffix(".py")
    found = [
        f"imports {name}, which is upstairs"
        for name in _own_imports(tree)
        if not _may_import(file, name)
    ]
    found += [
        f"imports {name}"
        for name in _imports(tree)
        if name.split(".")[0] in {"pickle", "dill", "joblib"}
    ]
    if room == "credit":
        found += [
            f"credit imports {name}"
            for name in _imports(tree)
            if name.split(".")[0] in {"torch", "transformers"}
        ]
    if room == "commands":
        top = list(_imports(_module_level(tree)))
        found += [f"imports {name} at module level" for name in top if name.split(".")[0] in HEAVY]
        found += [
            f"imports {name} at module level" for name in top if _room(name) not in LIGHT_ROOMS
        ]
    found += [f"unsafe: {call}" for call in _unsafe_calls(tree)]
    if len(source.splitlines()) > MOST_LINES:
        found.append(f"{len(source.splitlines())} lines, more than {MOST_LINES}")
    return found


def _may_import(file: str, name: str) -> bool:
    here, there = file.split("/")[0].removesuffix(".py"), _room(name)
    if there == "commands":
        return here in {"commands", "__main__"}
    if there in GROUND or there == "":
        return True
    if here == "config" and name.startswith(BELOW_CONFIG):
        return True
    if here not in FLOORS:
        return False
    return FLOORS.index(there) <= FLOORS.index(here)


def _room(name: str) -> str:
    """`tspo_cli.data.rows` is in `data`; what is not ours is in no room."""
    parts = name.split(".")
    return (
        parts[1]
        if parts[0] == "tspo_cli" and len(parts) > 1 and parts[1] in {*FLOORS, *GROUND}
        else ""
    )


def _own_imports(tree: ast.AST) -> Iterator[str]:
    return (name for name in _imports(tree) if name.split(".")[0] == "tspo_cli")


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute in this package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_level(tree: ast.Module) -> ast.Module:
    """What runs at import: no function bodies, no `if TYPE_CHECKING:`."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None: ...

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None: ...

        def visit_If(self, node: ast.If) -> ast.AST | None:
            is_typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if is_typing else self.generic_visit(node)

    return Strip().visit(ast.parse(ast.unparse(tree)))


def _unsafe_calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            arguments = {
                word.arg: getattr(word.value, "value", word.value) for word in node.keywords
            }
            called = ast.unparse(node.func)
            if called == "torch.load" and arguments.get("weights_only") is not True:
                yield "torch.load without weights_only=True"
            for name in ("trust_remote_code", "allow_pickle"):
                if arguments.get(name, False) is not False:
                    yield name
        elif isinstance(node, ast.Constant) and node.value == "trust_remote_code":
            yield "trust_remote_code"


def test_there_is_something_to_check() -> None:
    assert {"errors.py", "config/schema.py", "credit/assign.py", "rollout/agent.py"} <= set(FILES)
    rooms = {
        path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert rooms <= {*FLOORS, *GROUND}, "a new room needs its floor"


@pytest.mark.parametrize("file", FILES)
def test_file_keeps_the_house_rules(file: str) -> None:
    assert violations(file, (PACKAGE / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("data/x.py", "from tspo_cli.retrieval import types", "upstairs"),
        ("data/x.py", "def f():\n    import tspo_cli.training.loop", "upstairs"),
        ("rollout/x.py", "from tspo_cli import credit", "upstairs"),
        ("runs.py", "from tspo_cli.data.rows import read", "upstairs"),
        ("config/x.py", "from tspo_cli.models import tiny", "upstairs"),
        ("reporting/x.py", "from tspo_cli.commands import app", "upstairs"),
        ("errors.py", "from tspo_cli.commands.app import main", "upstairs"),
        ("credit/x.py", "import torch.nn", "credit imports torch"),
        ("credit/x.py", "def f():\n    from torch import Tensor", "credit imports torch"),
        ("models/x.py", "import pickle", "imports pickle"),
        ("models/x.py", "import torch\ntorch.load('x')", "torch.load"),
        ("models/x.py", "import torch\ntorch.load('x', weights_only=False)", "torch.load"),
        ("models/x.py", "load('x', trust_remote_code=True)", "trust_remote_code"),
        ("models/x.py", "load('x', trust_remote_code=flag)", "trust_remote_code"),
        ("models/x.py", "load('x', **{'trust_remote_code': True})", "trust_remote_code"),
        ("retrieval/x.py", "np.load('x', allow_pickle=True)", "allow_pickle"),
        ("commands/x.py", "import torch", "module level"),
        ("commands/x.py", "from pandas import DataFrame", "module level"),
        ("commands/x.py", "try:\n    import faiss\nexcept ImportError:\n    pass", "module level"),
        ("commands/x.py", "from tspo_cli.config.load_config import load_config", "module level"),
        ("data/x.py", "x = 1\n" * (MOST_LINES + 1), f"more than {MOST_LINES}"),
    ],
)
def test_each_rule_can_fail(file: str, source: str, rule: str) -> None:
    assert any(rule in message for message in violations(file, source))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "training/x.py",
            "from tspo_cli.rollout.agent import run\nfrom tspo_cli.config.schema import "
            "Config\nimport torch",
        ),
        ("evaluation/x.py", "from tspo_cli.evaluation.metrics import em"),
        ("models/x.py", "torch.load('x', weights_only=True)\nload('x', trust_remote_code=False)"),
        ("commands/x.py", "from tspo_cli.errors import UsageError\ndef f():\n    import torch"),
        (
            "commands/x.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tspo_cli.config.schema "
            "import Config",
        ),
        ("__main__.py", "from tspo_cli.commands.app import main"),
    ],
)
def test_what_is_allowed_passes(file: str, source: str) -> None:
    assert violations(file, source) == []


def test_algorithms_see_nothing_of_the_configuration_that_is_built_from_them() -> None:
    reached: set[str] = set()
    waiting = [file for file in FILES if _module(file).startswith(BELOW_CONFIG)]
    assert "credit/algorithms/by_outcome/grpo.py" in waiting
    while waiting:
        file = waiting.pop()
        reached.add(file)
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        names = list(_own_imports(tree))
        imported = {
            other
            for other in FILES
            if _module(other) in names or _module(other) in {n.rpartition(".")[0] for n in names}
        }
        waiting += imported - reached
    assert {file for file in reached if file.startswith("config/")} == {
        "config/sections/section.py"
    }
    rooms = {file.split("/")[0] for file in reached}
    assert rooms <= {"config", "credit", "data", "rollout", "text", "errors.py", "plain_files.py"}
    assert {file for file in reached if file.startswith("rollout/")} <= {"rollout/branch.py"}


def _module(file: str) -> str:
    return "tspo_cli." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_commands_import_without_heavy_packages() -> None:
    modules = [
        f"tspo_cli.commands.{path.stem}"
        for path in (PACKAGE / "commands").glob("*.py")
        if path.stem != "__init__"
    ]
    program = f"import sys, {', '.join(modules)}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
