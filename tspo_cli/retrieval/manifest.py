"""The description of an index: manifest.json, written last, read first, checked against the files.

`files` has the size and digest of every file. An absolute name is a file outside the index
directory, which an imported index uses without a copy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tspo_cli.console import counted, progress
from tspo_cli.errors import InvalidInputError, MissingResourceError, advising
from tspo_cli.plain_files import made_by, open_plain, why_missing
from tspo_cli.record_forms import MANIFEST, checked
from tspo_cli.retrieval.passages import OFFSETS_NAME, PASSAGES_NAME
from tspo_cli.retrieval.search_settings import IndexSettings, built_settings
from tspo_cli.retrieval.types import POSTINGS, RESCORE_NAME, VECTORS_NAME
from tspo_cli.runs import read_json

MANIFEST_NAME = "manifest.json"
FORMAT = "tspo-index"
FORMAT_VERSION = 1
_BM25_NAMES = (
    *(f"{name}.csc.index.npy" for name in POSTINGS), "params.index.json", "vocab.index.json",
)  # fmt: skip
_AGAIN = "build the index again"
_CHECKED_ON_OPENING = 64 * 2**20
"""Bytes. The digest of a larger file takes seconds; `tspo index verify` computes it."""
_CHUNK = 16 * 2**20


def make_manifest(
    *,
    kind: str,
    passages: int,
    corpus: dict[str, Any],
    settings: IndexSettings,
    encoder: str,
    encoder_sha256: str | None,
    files: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """The manifest as plain values.

    `corpus` has the path and sha256 of the file that the index was built from; `files` in it has
    all paths, if there are several.
    """
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "kind": kind,
        "passages": passages,
        "corpus": corpus,
        "parameters": settings.flat(),
        "encoder": encoder,
        "encoder_sha256": encoder_sha256,
        "files": files,
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an index directory.

    Raises:
        MissingResourceError: no such directory.
        InvalidInputError: not an index, or one of another format version; the address of a server.
    """
    if not path.exists():
        if path.parts[0] in ("http:", "https:"):
            raise InvalidInputError(
                f"{str(path).replace(':/', '://', 1)}: expected the directory of an index, got the "
                "address of a server; name it in retriever.url, or in --retriever of `tspo eval`"
            )
        maker = made_by(path)
        build = f"make one with: tspo index build CORPUS --out {path}"
        raise MissingResourceError(
            f"{path}: {why_missing(path, 'no such index')}; "
            f"{f'{maker} makes it' if maker else build}"
        )
    if not is_index(path):
        raise InvalidInputError(
            f"{path}: not an index directory (no {MANIFEST_NAME} of tspo in it); name an index, or "
            "build it again"
        )
    manifest = _read(path)
    version = manifest.get("version")
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"{path}: expected index format {FORMAT_VERSION}, got {version}; build it again with "
            "--overwrite"
        )
    _check_form(path / MANIFEST_NAME, manifest)
    _check_names(path / MANIFEST_NAME, manifest)
    return manifest


def _check_names(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest without the size and digest of a file that is opened, or with a name that
    leads out of the directory by `..`.
    """
    opened = [OFFSETS_NAME, manifest.get("lines", PASSAGES_NAME)]
    opened += _BM25_NAMES if manifest["kind"] in ("bm25", "hybrid") else ()
    opened += _vectors(manifest) if manifest["kind"] != "bm25" else ()
    for name in opened:
        if name not in manifest["files"]:
            raise InvalidInputError(f"{path}: files has no size and digest of {name}; {_AGAIN}")
    for name in manifest["files"]:
        if Path(name).name != name and not Path(name).is_absolute():
            raise InvalidInputError(
                f"{path}: {name}: expected a file in the index directory; {_AGAIN}"
            )


def _vectors(manifest: Mapping[str, Any]) -> list[str]:
    return list(manifest.get("vectors", [VECTORS_NAME]))


def vector_files(path: Path, manifest: Mapping[str, Any]) -> tuple[list[Path], Path | None]:
    """The FAISS file of a dense index, or its pieces in order, and the file with its full vectors,
    if it has one.
    """
    rescore = path / RESCORE_NAME if RESCORE_NAME in manifest["files"] else None
    return [path / name for name in _vectors(manifest)], rescore


def index_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of an index directory: its manifest has the digests of all its files and its
    settings.

    The path of the corpus is left out, so that copies on several machines are equal.
    """
    facts = {**manifest, "corpus": {"sha256": manifest["corpus"]["sha256"]}}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def is_index(path: Path) -> bool:
    """True for a directory that `build_index` or `import_index` made. Raises InvalidInputError for
    a damaged manifest.
    """
    if not (path / MANIFEST_NAME).is_file():
        return False
    manifest = _read(path)
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def own_names(path: Path) -> set[str]:
    """The names of files that an index of any kind has, and those that the manifest lists."""
    manifest = _read(path)
    listed = manifest["files"] if isinstance(manifest.get("files"), dict) else {}
    return {MANIFEST_NAME, OFFSETS_NAME, PASSAGES_NAME, VECTORS_NAME, *_BM25_NAMES, *listed}


def _read(path: Path) -> Any:
    with advising(_AGAIN):
        return read_json(path / MANIFEST_NAME)


def _check_form(path: Path, manifest: Any) -> None:
    with advising(_AGAIN):
        checked(MANIFEST, manifest, str(path))
    try:
        built_settings(manifest["kind"], manifest["parameters"])
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}; {_AGAIN}") from None


def check_files(
    path: Path, manifest: dict[str, Any], *, most_bytes: int | None = _CHECKED_ON_OPENING
) -> None:
    """Compare the size of every file, and the digest of files up to `most_bytes` (None: all).

    Raises:
        InvalidInputError: a file is missing, cut or changed.
    """
    check_sizes(path, manifest)
    for name, facts in manifest["files"].items():
        if most_bytes is None or facts["bytes"] <= most_bytes:
            check_digest(
                path / name,
                facts["sha256"],
                "the file was changed: build the index again with --overwrite",
            )


def check_sizes(path: Path, manifest: dict[str, Any]) -> None:
    """Compare the size of every file.

    Raises:
        InvalidInputError: a file is missing, cut or longer.
    """
    for name, facts in manifest["files"].items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != facts["bytes"]:
            got = "no such file" if size is None else counted(size, "byte")
            raise InvalidInputError(
                f"{path / name}: expected {counted(facts['bytes'], 'byte')}, got {got}; build the "
                "index again"
            )


def check_digest(path: Path, expected: str, fix: str) -> None:
    """Raises InvalidInputError if the file at `path` does not have the digest `expected`."""
    got = file_digest(path) if path.is_file() else "no such file"
    if got != expected:
        raise InvalidInputError(f"{path}: expected sha256 {expected[:12]}, got {got[:12]}; {fix}")


def file_facts(path: Path) -> dict[str, Any]:
    """Size and digest of a file, as in a manifest."""
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; a large file shows its progress.

    Raises:
        InvalidInputError: it is no file.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with open_plain(path) as handle:
        if size <= _CHECKED_ON_OPENING:
            return hashlib.file_digest(handle, "sha256").hexdigest()
        with progress(f"checking {path.name} (MiB)", size >> 20) as advance:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
                advance(len(chunk) >> 20)
    return digest.hexdigest()
