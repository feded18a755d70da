"""Options that several commands share, each with a single help text."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated

import typer

from tspo_cli.errors import InvalidInputError, UsageError

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


def check_place(path: Path | None) -> Path | None:
    """Of an option that names what is written: refuse, before any work, a place where nothing can
    be.

    Raises:
        InvalidInputError: a part of the path is a file.
        PermissionError: this user may not write there.
    """
    if path is None:
        return None
    folders = [path, *path.absolute().parents] if path.is_dir() else path.absolute().parents
    there = next(folder for folder in folders if os.path.lexists(folder))
    if not there.is_dir():
        raise InvalidInputError(f"{path}: {there} is not a directory; choose another place")
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
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
        callback=check_place,
        help="Run directory. Default: runs/<name of the last file>.",
    ),
]
ResumeRun = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")
]
OverwriteRun = Annotated[
    bool, typer.Option("--overwrite", help="Delete the run that is there, start anew.")
]
