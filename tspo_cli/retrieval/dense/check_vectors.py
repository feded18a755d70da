"""The check of all vectors of an index, of which a search reads some."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.retrieval.dense.dense_ranker import VectorIndex, check_count, kept_vectors
from tspo_cli.retrieval.dense.faiss_files import FlatRows, check_positions, is_flat, open_faiss
from tspo_cli.retrieval.ranking import check_finite

_AT_ONCE = 4096
"""Vectors that are checked at once."""
_FOUND = 10
"""Vectors that the search of a compressed index shall find."""


def check_vectors(
    pieces: Sequence[Path], rescore: Path | None, passages: int, settings: DenseSettings
) -> None:
    """Read the full vectors of an index with so many `passages`. Codes of a compressed index are
    searched once.

    Args:
        pieces, rescore: the files, as `vector_files` gives them.

    Raises:
        InvalidInputError: a file is damaged, of another corpus, names a row twice, or has a
            vector that is no number.
    """
    if is_flat(pieces[0]):
        flat = FlatRows(pieces)
        rows, dim = flat.ntotal, flat.d
        tables = [flat.block]
    else:
        here = {"device": "auto", "backend": "faiss", "first_pass": "float32"}
        index = VectorIndex(pieces, rescore, settings.model_copy(update=here))
        rows, dim = index.ntotal, index.dim
        index.rank(np.ones((1, dim), np.float32), _FOUND)
        check_positions(pieces[0], open_faiss(pieces))
        tables = []
    check_count(pieces[0], rows, passages)
    if rescore is not None:
        kept = kept_vectors(rescore, rows, dim)
        tables.append(lambda start, stop: kept[start:stop])
    for table in tables:
        for block in _blocks(table, rows):
            check_finite(block)


def _blocks(table: Callable[[int, int], NDArray[Any]], rows: int) -> Iterator[NDArray[Any]]:
    return (table(start, min(start + _AT_ONCE, rows)) for start in range(0, rows, _AT_ONCE))
