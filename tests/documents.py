"""Rules for documents: links lead somewhere, commands parse, keys exist, lines are short.

Every rule takes the text of a page and yields one sentence per problem.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tspo_cli.commands.app import app
from tspo_cli.config.keys import all_keys, all_sections
from tspo_cli.config.load_config import list_recipes, load_config
from tspo_cli.config.sections.index_settings import INDEX_PARTS, search_time_names
from tspo_cli.credit.algorithms import ALGORITHMS
from tspo_cli.errors import TspoError

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 100
SHELL = ("sh", "bash", "console", "")
INDEX_COMMANDS = ("index build", "index import")
SEARCH_COMMANDS = ("index search", "serve")
ROOMS = ("tspo_cli/", "tests/", "docs/", "experiments/", "data/cards/")
SUFFIXES = "py toml json jsonl gz csv md svg png html pdf parquet txt"

_FENCE = re.compile(r"^\s*```\s*([\w-]*)")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_TARGET = re.compile(r"^([\w-]+(?: [\w-]+)*)\s*:(?!=)", re.MULTILINE)
_VARIABLE = re.compile(r"^(\w+)\s*[?:]?=|\$\((\w+)\)", re.MULTILINE)
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of every code block, fenced (```) or indented ("indented")."""
    language: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        fence = _FENCE.match(line)
        if language is None and fence:
            if lines:
                yield "indented", "\n".join(lines)
            language, lines = fence.group(1), []
        elif language is not None and fence:
            yield language, "\n".join(lines)
            language, lines = None, []
        elif language is not None:
            lines.append(line)
        elif line.startswith("    "):
            lines.append(line[4:])
        elif lines:
            yield "indented", "\n".join(lines)
            lines = []
    if lines:
        yield language or "indented", "\n".join(lines)


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    kept, inside = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def unbalanced_fences(text: str) -> Iterator[str]:
    """A code block that is never closed."""
    if sum(bool(_FENCE.match(line)) for line in text.splitlines()) % 2:
        yield "a code block is not closed"


def long_lines(text: str, *, strict: bool = False) -> Iterator[str]:
    """Lines above 100 columns. Table rows and lines with a URL may be longer unless `strict`."""
    for number, line in enumerate(text.splitlines(), start=1):
        excused = not strict and ("://" in line or line.lstrip().startswith("|"))
        if len(line) > COLUMNS and not excused:
            yield f"line {number} has {len(line)} columns"


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Relative links and images without a file, and anchors without a heading."""
    for target in map("".join, _LINK.findall(_INLINE.sub("", prose(text)))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if name and not file.exists():
            yield f"link {target}: no such file"
        elif anchor and anchor not in anchors(text if not name else file.read_text("utf-8")):
            yield f"link {target}: no such heading"


def anchors(text: str) -> set[str]:
    """The anchors of all headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def missing_paths(text: str) -> Iterator[str]:
    """Files of this repository that code names, and that do not exist."""
    for code in (*_INLINE.findall(prose(text)), *(body for _, body in blocks(text))):
        for word in re.split(r"[\s'\",;()\[\]]+", code):
            path = word.split("::")[0].rstrip(".:")
            literal = path.startswith(ROOMS) and not re.search(r"[*{}<>$]|[A-Z]{3}", path)
            if literal and not (ROOT / path).exists():
                yield f"{path}: no such file"


def bad_commands(text: str) -> Iterator[str]:
    """`tspo` and `make` lines in code that would not parse, and settings that do not exist."""
    for language, body in blocks(text):
        if language in (*SHELL, "indented"):
            for line in body.replace("\\\n", " ").splitlines():
                yield from _bad_line(line, named=False)
    for code in _INLINE.findall(prose(text)):
        if code.startswith(("tspo ", "make ")):
            yield from _bad_line(code, named=True)


def is_key(name: str) -> bool:
    """True for a key of an experiment file, an option of a user's own algorithm, or an argument of
    a chat template.
    """
    return name in all_keys() or name.startswith(("credit.options.", "rollout.template_kwargs."))


def bad_keys(text: str) -> Iterator[str]:
    """Keys in TOML blocks and in prose (`train.steps`) that no experiment file may have."""
    for language, body in blocks(text):
        if language == "toml":
            yield from _bad_toml(body)
    tops = {section.split(".")[0] for section in all_sections()}
    for code in _INLINE.findall(prose(text)):
        name = re.split(r"\s*=", code)[0]
        parts = name.split(".")
        a_key = re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name) and parts[0] in tops
        file = parts[-1] in SUFFIXES.split()
        if a_key and not file and name not in all_sections() and not is_key(name):
            yield f"`{code}`: no such key"


def _bad_line(line: str, *, named: bool) -> Iterator[str]:
    """Problems of one line. `named`: the line may leave out required arguments."""
    if not re.search(r"\b(tspo|make)\b", line):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError as error:
        yield f"{line.strip()}: {error}"
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if re.fullmatch(r"[();<>|&]+", word):
            yield from _bad_command(command, named)
            command = []
        else:
            command.append(word)


def _bad_command(words: list[str], named: bool) -> Iterator[str]:
    words = [word for word in words if word != "$"]
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if not words:
        return
    shown = " ".join(words)
    program = words[0].rpartition("/")[2]
    if program == "make":
        problems = _bad_make(words[1:])
    elif program == "tspo":
        problems = _bad_tspo(words[1:], named)
    else:
        return
    for problem in problems:
        yield f"{shown}: {problem}"


def _bad_make(words: list[str]) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {name for line in _TARGET.findall(makefile) for name in line.split()}
    variables = {name for pair in _VARIABLE.findall(makefile) for name in pair if name}
    for word in words:
        name, equals, _ = word.partition("=")
        if equals and name not in variables:
            yield f"the Makefile has no variable {name}"
        elif not equals and name not in targets:
            yield f"the Makefile has no target {name}"


def _bad_tspo(words: list[str], named: bool) -> Iterator[str]:
    command: Any = typer.main.get_command(app)
    path: list[str] = []
    while words and words[0] in ("-q", "--quiet"):
        words = words[1:]
    if words and words[0] in ("--help", "--version", "--install-completion"):
        return
    while hasattr(command, "commands"):
        if not words:
            if not named:
                yield "the command is not complete"
            return
        if words[0] not in command.commands:
            yield f"no command {words[0]}"
            return
        command, path, words = command.commands[words[0]], [*path, words[0]], words[1:]
    if "--help" in words:
        return
    try:
        context = command.make_context(path[-1], ["1" if word == "N" else word for word in words])
    except Exception as error:
        message = getattr(error, "message", None) or str(error)
        incomplete = type(error).__name__ == "MissingParameter" or "requires an arg" in message
        if not (named and incomplete):
            yield message
        return
    name = " ".join(path)
    for setting in context.params.get("settings") or ():
        yield from _bad_setting(name, setting)
    for algorithm in context.params.get("algorithm") or () if name == "credit" else ():
        yield from _bad_algorithm(str(algorithm))
    for word in words:
        if re.match(r"(any|tiny|qwen2\.5-\w+)/", word) and word not in list_recipes():
            yield f"no recipe {word}"
        elif "::" in word and (ROOT / word.partition("::")[0]).is_file():
            yield from _bad_cell(word)


def _bad_cell(source: str) -> Iterator[str]:
    try:
        load_config([ROOT / source])
    except TspoError as error:
        yield str(error)


def _bad_setting(command: str, setting: str) -> Iterator[str]:
    key, equals, value = setting.partition("=")
    if not equals:
        yield f"--set {setting}: expected KEY=VALUE"
    elif _PLACEHOLDER.fullmatch(key):
        return
    elif command in (*INDEX_COMMANDS, *SEARCH_COMMANDS):
        if key not in index_keys(searching=command in SEARCH_COMMANDS):
            yield f"--set {setting}: no such setting of an index"
    elif not is_key(key):
        yield f"--set {setting}: no such key"
    elif key in all_keys() and not _PLACEHOLDER.fullmatch(value):
        try:
            load_config([], [setting])
        except TspoError as error:
            yield f"--set {setting}: {error}"


def index_keys(*, searching: bool) -> set[str]:
    """What `--set` of a build may name, or of a search."""
    if searching:
        return {name for kind in INDEX_PARTS for name in search_time_names(kind)}
    parts = [part for kind in INDEX_PARTS.values() for part in kind.values()]
    return {name for part in parts for name in part.model_fields}


def _bad_algorithm(words: str) -> Iterator[str]:
    name, *options = words.split()
    if name not in ALGORITHMS and ".py:" not in name and not _PLACEHOLDER.fullmatch(name):
        yield f"no algorithm {name}"
    for option in options:
        if not is_key(f"credit.{option.partition('=')[0]}"):
            yield f"no option {option}"


def _bad_toml(body: str) -> Iterator[str]:
    try:
        table = tomllib.loads(body)
    except tomllib.TOMLDecodeError as error:
        yield f"TOML block: {error}"
        return
    parts = [part for part in table.values() if isinstance(part, dict)]
    if parts and all({"path", "hub"} & {*part} for part in parts):
        return  # entries of benchmarks.toml
    sweep = {"arms", "base"} & {*table}
    parts = [table.get("settings", {}), table.get("grid", {})] if sweep else [table]
    if sweep:
        values = [*table.get("arms", {}).values()]
        values += [value for axis in table.get("axes", {}).values() for value in axis.values()]
        parts += [{k: v for k, v in value.items() if k != "seeds"} for value in values]
    for part in parts:
        for key in _leaves(part):
            if key != "extends" and not is_key(key):
                yield f"TOML block: {key}: no such key"


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
