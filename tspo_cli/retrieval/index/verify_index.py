"""The whole check of an index: its digests, and all that a search relies on, which digests that
were written anew do not show.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from tspo_cli.console import progress
from tspo_cli.data.corpus.corpus_files import corpus_digest
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.index.searcher import open_passages
from tspo_cli.retrieval.manifest import check_digest, file_digest, read_manifest, vector_files
from tspo_cli.retrieval.passages import PassageStore
from tspo_cli.retrieval.search_settings import IndexSettings, built_settings
from tspo_cli.steady_folders import steady

_AT_ONCE = 4096
"""Passages that are checked at once."""


def verify_index(path: Path) -> dict[str, Any]:
    """Compute every digest of an index again, and read all its passages, postings and vectors:
    `{"files": n, "corpus": "same" | "absent"}`. No encoder is needed.

    Raises:
        MissingResourceError: there is no such directory.
        InvalidInputError: not an index; a file of it, or the corpus it was built from, has changed;
            or a search would find it damaged. The corpus may be missing.
    """
    return steady(path, lambda: _verify(path))


def _verify(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    settings = built_settings(manifest["kind"], manifest["parameters"])
    for name, facts in manifest["files"].items():
        check_digest(path / name, facts["sha256"], "build the index again with --overwrite")
    store = open_passages(path, manifest)
    _check_passages(store)
    _check_rankers(path, manifest, len(store), settings)
    corpus = [Path(name) for name in manifest["corpus"].get("files", [manifest["corpus"]["path"]])]
    present = all(path.exists() for path in corpus)
    expected = manifest["corpus"]["sha256"]
    if present and (got := corpus_digest(corpus, file_digest)) != expected:
        raise InvalidInputError(
            f"{manifest['corpus']['path']}: expected sha256 {expected[:12]}, got {got[:12]}; the "
            "corpus changed: build the index again"
        )
    return {"files": len(manifest["files"]), "corpus": "same" if present else "absent"}


def _check_passages(store: PassageStore) -> None:
    with progress("checking passages", len(store)) as advance:
        for start in range(0, len(store), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(store))
            deque(store.contents(start, stop), maxlen=0)
            advance(stop - start)


def _check_rankers(
    path: Path, manifest: dict[str, Any], passages: int, settings: IndexSettings
) -> None:
    if settings.bm25 is not None:
        from tspo_cli.retrieval.bm25.bm25_ranker import check_postings

        check_postings(path, passages)
    if settings.dense is not None:
        from tspo_cli.retrieval.dense.check_vectors import check_vectors

        check_vectors(*vector_files(path, manifest), passages, settings.dense)
