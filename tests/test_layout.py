"""The folders show the architecture: small folders, telling names, floors within the rooms."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tspo_cli"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# Floors within a room, lowest first. A file imports from its own entry and from lower floors.
FLOORS: dict[str, list[set[str]]] = {
    "rollout": [
        {"branch", "thoughts"},
        {"trajectory", "prompts", "engines", "shown"},
        {"protocol", "records", "search_requests"},
        {"agent", "agent_file", "limit_warnings", "prompt_length"},
        {"trees"},
    ],
    "retrieval": [
        {"types", "mapped_array", "ranking", "search_settings"},
        {"passages"},
        {"bm25", "dense", "manifest", "server"},
        {"index", "remote"},
        {"open_retriever"},
    ],
    "training": [
        {"announce", "core", "early_stop", "policy"},
        {"best", "planning", "problems", "telemetry"},
        {"launch"},
        {"remedies"},
        {"loop"},
        {"rl", "sft"},
        {"start"},
        {"run"},
    ],
    "reporting": [
        {"rendering", "sources"},
        {"scores", "inspect"},
        {"figure"},
        {"tables"},
        {"run_report", "sweep_report"},
        {"open_report", "page"},
    ],
}
MOST_ENTRIES = 15
# One file for each verb of the command line, and what they share.
LARGER = {"commands": 25}
# The verbs `tspo runs` and `tspo demo` show what runs.py and demo.py do.
SAME_THING = {"__init__", "__main__", "runs", "demo"}
LIBRARIES = {"torch", "transformers", "vllm", "deepspeed", "faiss", "bm25s", "datasets", "pandas"}


def entry(path: Path) -> str:
    """The entry of its room that a file belongs to: a sub-room, or the file itself."""
    return path.parts[1].removesuffix(".py")


def upward_imports(path: Path, source: str) -> Iterator[str]:
    """The modules of the same room that `path` may not import."""
    floors = FLOORS.get(path.parts[0], [])
    if not floors or path.name == "__init__.py":
        return
    level = {name: number for number, names in enumerate(floors) for name in names}
    own = entry(path)
    for name in imported(ast.parse(source)):
        parts = name.split(".")
        if parts[:2] != ["tspo_cli", path.parts[0]] or len(parts) < 3 or parts[2] == own:
            continue
        if level[parts[2]] >= level[own]:
            yield name


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield (
                node.module if node.module.count(".") > 1 else f"{node.module}.{node.names[0].name}"
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_every_entry_of_a_room_has_a_floor(room: str) -> None:
    entries = {entry(path) for path in FILES if path.parts[0] == room} - {"__init__"}
    assert entries == set().union(*FLOORS[room])


def test_imports_within_a_room_run_downwards() -> None:
    found = {
        path.as_posix(): names
        for path in FILES
        if (names := list(upward_imports(path, (PACKAGE / path).read_text("utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("rollout/engines/hf/x.py", "from tspo_cli.rollout.agent import run_agents"),
        ("training/core/x.py", "def f():\n    from tspo_cli.training.rl.rl_step import RlStep"),
        ("reporting/tables/x.py", "import tspo_cli.reporting.page.page"),
        ("retrieval/bm25/x.py", "from tspo_cli.retrieval.index import searcher"),
    ],
)
def test_an_upward_import_is_seen(file: str, source: str) -> None:
    assert list(upward_imports(Path(file), source))


def test_no_folder_is_overfull() -> None:
    folders = [path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    sizes = {
        folder.relative_to(PACKAGE).as_posix(): sum(
            not path.name.startswith("__") for path in folder.iterdir()
        )
        for folder in folders
    }
    assert {n: s for n, s in sizes.items() if s > LARGER.get(n, MOST_ENTRIES)} == {}


def test_no_two_files_share_a_name() -> None:
    names = Counter(path.stem for path in FILES)
    assert {name for name, count in names.items() if count > 1} <= SAME_THING


def test_no_folder_or_file_bears_the_name_of_a_library() -> None:
    names = {part.removesuffix(".py") for path in FILES for part in path.parts}
    assert names & LIBRARIES == set()


def test_loops_name_what_they_go_over() -> None:
    loops = [
        f"{path}:{number}"
        for path in FILES
        for number, line in enumerate((PACKAGE / path).read_text("utf-8").splitlines(), start=1)
        if "for one in" in line
    ]
    assert len(loops) <= 5, loops
