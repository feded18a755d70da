"""Import of an existing FAISS index and its corpus, without a copy.

Row n of the FAISS file belongs to line n + 1 of the corpus, as in Search-R1's `e5_Flat.index` and
`wiki-18.jsonl`.
"""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tspo_cli.console import counted, part_of, say
from tspo_cli.data.rows import file_form
from tspo_cli.disk import new_directory, writing
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import refuse_pointer
from tspo_cli.retrieval.dense.dense_ranker import DenseRanker, VectorIndex
from tspo_cli.retrieval.dense.encoder import encoder_digest
from tspo_cli.retrieval.dense.faiss_files import is_flat
from tspo_cli.retrieval.dense.presets import resolve_preset
from tspo_cli.retrieval.index.build_index import check_target
from tspo_cli.retrieval.manifest import MANIFEST_NAME, file_digest, file_facts, make_manifest
from tspo_cli.retrieval.passages import PASSAGES_NAME, PassageStore, write_offsets, write_passages
from tspo_cli.retrieval.search_settings import index_settings
from tspo_cli.runs import write_json

_PROBES = 32
_LEAST_COSINE = 0.9
"""Cosine similarity of an encoded passage with its stored vector. float16 and int8 stay above 0.99,
codes of 48 bytes mostly above 0.9.
"""
_NUMBERS = re.compile(r"(\d+)")


def import_index(
    pieces: Sequence[Path],
    corpus: Path,
    out: Path,
    *,
    encoder: str,
    settings: Mapping[str, object] | None = None,
    least_cosine: float = _LEAST_COSINE,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make an index directory `out` for a FAISS file (or its pieces) and its corpus.

    Returns the manifest. The FAISS file and a plain JSONL corpus are used where they are, without a
    copy; a gzip or parquet corpus is unpacked into `out`. Some passages are encoded and compared
    with their stored vectors, so that a wrong corpus, encoder, prefix or pooling is found at once.

    Args:
        pieces: the FAISS file, or its `part_*` pieces in any order. They are sorted by name, part_2
            before part_10.
        least_cosine: least cosine similarity of an encoded passage with its stored vector; for a
            compressed index, of the median. 0: no check.

    Raises:
        MissingResourceError: no such file or encoder.
        InvalidInputError: a damaged file, a file that does not fit the corpus or the encoder, or
            `out` exists, or another process imports it.
    """
    check = partial(check_target, out, overwrite, *pieces, corpus, encoder)
    check()
    chosen = index_settings("dense", resolve_preset(encoder, settings or {}))
    assert chosen.dense is not None
    for path in (*pieces, corpus):
        if not path.is_file():
            raise MissingResourceError(f"{path}: no such file; check the path")
        refuse_pointer(path)
    encoder = str(Path(encoder).resolve()) if Path(encoder).is_dir() else encoder
    vectors = [path.resolve() for path in sorted(pieces, key=_by_number)]
    with new_directory(out, "importing this index", check) as work:
        work.mkdir()
        lines = _lines(corpus, work)
        store = PassageStore(work, lines)
        ranker = DenseRanker(
            VectorIndex(vectors, None, chosen.dense), len(store), encoder, chosen.dense
        )
        if least_cosine > 0:
            _check_rows(ranker, store, vectors[0], least_cosine)
        written = [path for path in sorted(work.iterdir()) if path.name != MANIFEST_NAME]
        linked = [*vectors, *([lines] if lines.parent != work else [])]
        facts = {
            **{path.name: file_facts(path) for path in written},
            **{str(path): file_facts(path) for path in linked},
        }
        digest = facts[str(lines)]["sha256"] if lines.parent != work else file_digest(corpus)
        manifest = make_manifest(
            kind="dense",
            passages=len(store),
            corpus={"path": str(corpus.resolve()), "sha256": digest},
            settings=chosen,
            encoder=encoder,
            encoder_sha256=encoder_digest(encoder),
            files=facts,
        )
        manifest |= {"vectors": [str(path) for path in vectors]}
        manifest |= {"lines": str(lines) if lines.parent != work else PASSAGES_NAME}
        write_json(work / MANIFEST_NAME, manifest)
    return manifest


def _lines(corpus: Path, work: Path) -> Path:
    """The JSONL file to serve; its offsets are written to `work`. A plain JSONL corpus is used
    itself.
    """
    if file_form(corpus) != "jsonl":
        write_passages([corpus], work)
        return work / PASSAGES_NAME
    with open(corpus, "rb") as handle:
        magic = handle.read(4)
    if not magic.startswith(b"\x1f\x8b"):
        write_offsets(corpus, work)
        return corpus.resolve()
    say(f"unpacking {corpus}: passages are fetched by their byte offset")
    unpacked = work / PASSAGES_NAME
    try:
        with (
            gzip.open(corpus, "rb") as packed,
            writing(unpacked),
            open(unpacked, "wb") as plain,
        ):
            shutil.copyfileobj(packed, plain, 1 << 22)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInputError(
            f"{corpus}: expected intact gzip data, got {error}; copy the file again"
        ) from None
    write_offsets(unpacked, work)
    return unpacked


def _by_number(piece: Path) -> list[str | int]:
    """Sort key of a file name: numbers in it compare by value."""
    return [int(part) if part.isdecimal() else part for part in _NUMBERS.split(piece.name)]


def _check_rows(ranker: DenseRanker, store: PassageStore, path: Path, least: float) -> None:
    positions = np.unique(np.linspace(0, len(store) - 1, min(_PROBES, len(store))).astype(np.int64))
    cosines = ranker.cosines(positions, [store[int(position)][1] for position in positions])
    # The codes of a compressed index may differ from some vectors. Stored vectors may not.
    if (cosines.min() if is_flat(path) else np.median(cosines)) < least:
        worst = int(np.argmin(cosines))
        below = part_of(int((cosines < least).sum()), len(positions), "row", "is", "are")
        raise InvalidInputError(
            f"{path}: row {positions[worst]} is not the vector of line {positions[worst] + 1} of "
            f"the corpus (cosine {cosines[worst]:.2f}; {below} below {least}); the corpus, the "
            "encoder, its prefixes, pooling or max_length differ from those that the index was "
            "built with"
        )
    say(
        f"{counted(len(positions), 'passage')} encoded: median cosine with their stored vectors "
        f"{np.median(cosines):.4f}"
    )
