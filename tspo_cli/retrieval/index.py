"""The index directory: built whole or not at all, opened as a searcher, checked against its digests.

DIR/manifest.json                    kind, passages, corpus and its digest, parameters, encoder, files with digests
DIR/passages.jsonl, offsets.npy      what is served, by position
DIR/*.index.npy, *.index.json        BM25 (the files of bm25s)
DIR/vectors.faiss                    dense
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tspo_cli.data.readers import read_passages
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.passages import PassageStore, write_passages
from tspo_cli.retrieval.ranking import Ranked, Ranker
from tspo_cli.retrieval.settings import Bm25Settings, DenseSettings, parse_settings
from tspo_cli.retrieval.types import Hit, SearchResult
from tspo_cli.runs import read_json, write_json

MANIFEST_NAME = "manifest.json"
FORMAT = "tspo-index"
FORMAT_VERSION = 1
KINDS = ("bm25", "dense")


class Searcher:
    """An opened index: a Retriever in this process. `manifest` says what it was built from."""

    blocking = False

    def __init__(self, manifest: dict[str, Any], store: PassageStore, ranker: Ranker) -> None:
        self.manifest = manifest
        self._store = store
        self._ranker = ranker

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query: falling score, equal scores by ascending position in the corpus.

        Raises:
            InvalidInputError: `k` below 1.
        """
        if k < 1:
            raise InvalidInputError(f"k: expected 1 or more, got {k}")
        return [SearchResult(self._hits(ranked)) for ranked in self._ranker.rank(list(queries), k)]

    def passages(self) -> Iterator[tuple[str, str]]:
        """(id, contents) of every passage, in the order of the corpus."""
        return (self._store[position] for position in range(len(self._store)))

    def _hits(self, ranked: Ranked) -> tuple[Hit, ...]:
        return tuple(Hit(*self._store[position], score) for position, score in ranked)


def build_index(
    corpus: Path,
    out: Path,
    *,
    kind: str = "bm25",
    encoder: str = "",
    settings: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Build the index directory `out` from a corpus file and return its manifest.

    The same corpus and settings give the same bytes. A build that fails leaves `out` as it was.

    Raises:
        MissingResourceError: no such corpus or encoder.
        InvalidInputError: a malformed corpus, an unknown kind or setting, an encoder for BM25, or `out` is taken
            (`overwrite` replaces an index, never another directory).
    """
    parameters = _parameters(kind, encoder, settings or {})
    _check_target(out, overwrite)
    if Path(encoder).is_dir() and encoder:
        encoder = str(Path(encoder).resolve())
    passages = read_passages(corpus)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    work.mkdir()
    try:
        count = write_passages(passages, work)
        _build(PassageStore(work), work, parameters, encoder)
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "kind": kind,
            "passages": count,
            "corpus": {"path": str(corpus.resolve()), "sha256": file_digest(corpus)},
            "parameters": asdict(parameters),
            "encoder": encoder,
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
                for path in sorted(work.iterdir())
            },
        }
        write_json(work / MANIFEST_NAME, manifest)
        _replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def open_index(path: Path) -> Searcher:
    """Open an index directory for searching.

    Raises:
        MissingResourceError: no such directory, or its encoder is not there.
        InvalidInputError: not an index, one of another format version, or one with a missing or cut file.
    """
    manifest = read_manifest(path)
    for name, facts in manifest["files"].items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != facts["bytes"]:
            got = "no such file" if size is None else f"{size} bytes"
            raise InvalidInputError(f"{path / name}: expected {facts['bytes']} bytes, got {got}; build the index again")
    store = PassageStore(path)
    parameters = _parameters(manifest["kind"], manifest["encoder"], manifest["parameters"])
    return Searcher(manifest, store, _ranker(path, parameters, manifest["encoder"]))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an index directory. Raises as `open_index` does."""
    if not path.exists():
        raise MissingResourceError(f"{path}: no such index; make one with: tspo index build CORPUS --out {path}")
    if not is_index(path):
        raise InvalidInputError(f"{path}: not an index directory (no {MANIFEST_NAME} of tspo in it)")
    manifest: dict[str, Any] = read_json(path / MANIFEST_NAME)
    if manifest["version"] != FORMAT_VERSION:
        found = manifest["version"]
        raise InvalidInputError(
            f"{path}: expected index format {FORMAT_VERSION}, got {found}; build it again with --overwrite"
        )
    return manifest


def is_index(path: Path) -> bool:
    """True for a directory that `build_index` made."""
    if not (path / MANIFEST_NAME).is_file():
        return False
    manifest = read_json(path / MANIFEST_NAME)
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def verify_index(path: Path) -> dict[str, Any]:
    """Compute every digest of an index again: `{"files": n, "corpus": "same" | "absent"}`.

    Raises:
        MissingResourceError, InvalidInputError: as `open_index`; also InvalidInputError when a file of the index, or
            the corpus it was built from, has changed since. A corpus that is gone is no error.
    """
    manifest = read_manifest(path)
    for name, facts in manifest["files"].items():
        _check_digest(path / name, facts["sha256"], "build the index again with --overwrite")
    corpus = Path(manifest["corpus"]["path"])
    if corpus.is_file():
        _check_digest(corpus, manifest["corpus"]["sha256"], "the corpus changed: build the index again")
    return {"files": len(manifest["files"]), "corpus": "same" if corpus.is_file() else "absent"}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _check_digest(path: Path, expected: str, fix: str) -> None:
    got = file_digest(path) if path.is_file() else "no such file"
    if got != expected:
        raise InvalidInputError(f"{path}: expected sha256 {expected[:12]}, got {got[:12]}; {fix}")


def _parameters(kind: str, encoder: str, settings: Mapping[str, object]) -> Bm25Settings | DenseSettings:
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InvalidInputError(f"kind: expected {' or '.join(KINDS)}, got {kind!r}{hint}")
    if kind == "dense":
        return parse_settings(DenseSettings, settings)
    if encoder:
        raise InvalidInputError("an encoder is of no use to a bm25 index; add --kind dense or leave it out")
    return parse_settings(Bm25Settings, settings)


def _build(store: PassageStore, directory: Path, parameters: Bm25Settings | DenseSettings, encoder: str) -> None:
    if isinstance(parameters, Bm25Settings):
        from tspo_cli.retrieval.bm25 import build_bm25

        build_bm25(store, directory, parameters)
    else:
        from tspo_cli.retrieval.dense import build_dense

        build_dense(store, directory, parameters, encoder)


def _ranker(directory: Path, parameters: Bm25Settings | DenseSettings, encoder: str) -> Ranker:
    if isinstance(parameters, Bm25Settings):
        from tspo_cli.retrieval.bm25 import Bm25Ranker

        return Bm25Ranker(directory, parameters)
    from tspo_cli.retrieval.dense import DenseRanker

    return DenseRanker(directory, parameters, encoder)


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_index(out):
        raise InvalidInputError(f"{out}: exists and is not an index; choose another --out")
    if not overwrite:
        raise InvalidInputError(f"{out}: already holds an index; add --overwrite to replace it")


def _replace(work: Path, out: Path) -> None:
    """Put `work` in the place of `out`; what stood there is deleted only afterwards."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.replace(out, old)
    os.replace(work, out)
    shutil.rmtree(old, ignore_errors=True)
