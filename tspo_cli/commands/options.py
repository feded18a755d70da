"""Options that several commands share, each with a single help text."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated

import typer

from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.plain_files import open_plain, require_plain

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
_PAGE_BEGINS = 200
"""Bytes that tell a page from another file."""
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
        InvalidInputError: a part of the path is a file, or it is a link to nothing.
        PermissionError: this user may not write there.
    """
    if path is not None and path.is_symlink() and not path.exists():
        raise InvalidInputError(f"{path}: is a link to nothing; choose another place")
    return _check_place(path)


def check_file(path: Path | None) -> Path | None:
    """`check_folder` of an option that names a file: what is no file is not replaced by one.

    Raises:
        InvalidInputError: a part of the path is a file; or a directory, pipe, socket or device
            stands there.
        PermissionError: this user may not write there.
    """
    if path is not None:
        require_plain(path, "choose another place")
    return _check_place(path)


def check_page(path: Path | None) -> Path | None:
    """`check_file` of an option that names a page. There is no --overwrite for it: a page is
    replaced by a newer one, and nothing else is.

    Raises:
        InvalidInputError: as `check_file`; or another file stands there.
        PermissionError: this user may not write there.
    """
    if check_file(path) is not None and path is not None and path.exists():
        with open_plain(path) as handle:
            begins = handle.read(_PAGE_BEGINS)
        if begins and not begins.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise InvalidInputError(f"{path}: is no HTML page; delete it, or choose another place")
    return path


def _check_place(path: Path | None) -> Path | None:
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
