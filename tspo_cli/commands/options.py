"""Options that several commands share, each with a single help text; checks of values; what a
command opens.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspo_cli.console import byte_size, say, say_meanwhile
from tspo_cli.disk import WriteError
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.not_a_run import model_directory
from tspo_cli.plain_files import open_plain, require_plain, require_readable, require_writable_name

if TYPE_CHECKING:
    from tspo_cli.config.schema import Config

_LARGE = 100 * 2**20
"""Bytes of weights that take seconds to open."""
_MOST_NAMES = 3

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE_OR_RECIPE",
        help="Experiment files (TOML), recipes such as any/tspo, or cells of sweeps "
        "(FILE.sweep.toml::CELL). Later ones win.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a key of the experiment, e.g. train.steps=20. Repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
_BEGINNING = 200
"""Bytes that tell a page or a figure from another file."""
_PAGES = (b"<!doctype html", b"<html")
_FIGURES = (b"<?xml", b"<svg", b"\x89png", b"%pdf")
SearchSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the search. All kinds: reranker, rerank_depth. "
        "dense: batch_size, batch_tokens, dtype, device, encoder_backend, candidates, nprobe, "
        "ef_search, backend, first_pass. bm25: ties. hybrid: all of these, rrf_constant, depth. "
        "Repeatable.",
    ),
]


def check_folder(path: Path | None) -> Path | None:
    """Of an option that names a directory to write: refuse, before any work, a place where none can
    be.

    Raises:
        InvalidInputError: a part of the path is a file, or it is a link to nothing; or its name is
            too long, or not UTF-8.
        WriteError: this user may not write there.
    """
    if path is not None and os.path.islink(path) and not os.path.exists(path):
        raise InvalidInputError(f"{path}: is a link to nothing; choose another place")
    return _check_place(path)


def check_file(path: Path | None) -> Path | None:
    """`check_folder` of an option that names a file: what is no file is not replaced by one.

    Raises:
        InvalidInputError: a part of the path is a file; or a directory, pipe, socket or device
            stands there.
        WriteError: this user may not write there.
    """
    if path is not None:
        require_plain(path, "choose another place")
    return _check_place(path)


def check_page(path: Path | None) -> Path | None:
    """`check_file` of an option that names a page. There is no --overwrite for it: a page is
    replaced by a newer one, and nothing else is.

    Raises:
        InvalidInputError: as `check_file`; or another file stands there.
        WriteError: this user may not write there.
    """
    return _check_replaced(path, "HTML page", _PAGES)


def check_figure(path: Path | None) -> Path | None:
    """`check_page` for a figure. Raises as that."""
    return _check_replaced(path, "figure", _FIGURES)


def _check_replaced(path: Path | None, what: str, begins: tuple[bytes, ...]) -> Path | None:
    if check_file(path) is not None and path is not None and path.exists():
        with open_plain(path) as handle:
            start = handle.read(_BEGINNING)
        if start and not start.lstrip().lower().startswith(begins):
            raise InvalidInputError(f"{path}: is no {what}; delete it, or choose another place")
    return path


def _check_place(path: Path | None) -> Path | None:
    if path is None:
        return None
    require_writable_name(path)
    within = [path] if os.path.isdir(path) else []
    folders = [*within, *path.absolute().parents]
    there = next(folder for folder in folders if os.path.lexists(folder))
    if not there.is_dir():
        raise InvalidInputError(f"{path}: {there} is not a directory; choose another place")
    if not os.access(there, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise WriteError(errno.EACCES, os.strerror(errno.EACCES), str(there))
    return path


def key_values(pairs: list[str] | None) -> dict[str, object]:
    """Split `KEY=VALUE` strings. Raises UsageError for a string without `=`."""
    for pair in pairs or []:
        if "=" not in pair:
            raise UsageError(f"--set: expected KEY=VALUE, got {pair!r}")
    return {name.strip(): value for name, _, value in (pair.partition("=") for pair in pairs or [])}


RunOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        callback=check_folder,
        help="Run directory. Default: runs/<name of the last file>.",
    ),
]
ResumeRun = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")
]
OverwriteRun = Annotated[
    bool,
    typer.Option("--overwrite", help="Start anew; the old run goes with the first checkpoint."),
]


def find_inputs(
    *,
    model_or_run: str = "",
    model: str = "",
    revision: str = "",
    data: Sequence[str] = (),
    files: Sequence[str] = (),
    index: str = "",
    world: str = "",
) -> None:
    """Find a model directory (or a run with one), question files or data sets, other data files, an
    index and a world, before libraries that take seconds to load open them. Empty names are left
    out, and so are models and data of the hub.

    Raises:
        MissingResourceError: some of them are not there; a line for each.
        InvalidInputError: something else stands in the place of one of them, or it cannot be read.
    """
    from tspo_cli.data.hub import PREFIX
    from tspo_cli.data.readers import resolve_data
    from tspo_cli.data.rows import file_form
    from tspo_cli.data.world.generate import world_file
    from tspo_cli.models.load_model import CONFIG, is_local_model
    from tspo_cli.retrieval.manifest import read_manifest

    def find_model(name: str) -> None:
        is_local_model(name, (CONFIG,), "configuration", revision)

    def find_data(name: str) -> None:
        path = resolve_data(name)
        if path.exists():
            require_readable(path)

    looks: list[tuple[Callable[[str], object], str]] = [
        (lambda name: world_file(Path(name)), world),
        (lambda name: find_model(str(model_directory(name))), model_or_run),
        (find_model, model),
        *((find_data, name) for name in data),
        *((lambda name: file_form(Path(name)), name) for name in files if name[:3] != PREFIX),
        (lambda name: read_manifest(Path(name)), index),
    ]
    problems: list[MissingResourceError | InvalidInputError] = []
    for look, name in looks:
        try:
            if name:
                look(name)
        except (MissingResourceError, InvalidInputError) as error:
            problems.append(error)
    if problems:
        lines = dict.fromkeys(line for problem in problems for line in problem.args)
        raise type(problems[0])(*lines)


def inputs_of_training(config: Config) -> list[str]:
    """What a training reads beside the model: data to train on and passages."""
    if config.kind == "sft":
        return [config.data.world] if config.data.world else config.data.demonstrations
    return [
        *config.data.train,
        *([config.retriever.index] if config.retriever.index else config.retriever.url),
    ]


def find_inputs_of_training(config: Config) -> None:
    """`find_inputs` for all that an experiment names."""
    is_sft = config.kind == "sft"
    demonstrations = [] if config.data.world or not is_sft else config.data.demonstrations
    find_inputs(
        model=config.model.path,
        revision=config.model.revision,
        data=(*([] if is_sft else config.data.train), *config.eval.data),
        files=(*demonstrations, config.deepspeed.config),
        index=config.retriever.index,
        world=config.data.world if is_sft else "",
    )


def say_what_is_opened(model: str, others: Sequence[str]) -> None:
    """Name what is opened: a model, or a run with one, and `others`, of which empty ones are left
    out. A person who waits is told of everything, a log of large models: in the log of a command
    that fails at once, its error stays the only line.
    """
    named = [name for name in others if name]
    names = [*named[:_MOST_NAMES], *(["..."] if len(named) > _MOST_NAMES else [])]
    size = _size(model_directory(model)) if model else 0
    if model:
        names.append(f"{model} ({byte_size(size)})" if size else model)
    tell = say if size >= _LARGE else say_meanwhile
    tell(f"opening {', '.join(names) or 'a new policy'}")


def _size(folder: Path) -> int:
    """Bytes of weights in a directory; 0 for a model of the hub."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
