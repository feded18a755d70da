"""Dense retrieval: sentence-transformers vectors of length one in a flat FAISS index, so a score is a cosine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tspo_cli.console import progress, warn
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.passages import PassageStore
from tspo_cli.retrieval.ranking import Ranked, top_k
from tspo_cli.retrieval.settings import DenseSettings

VECTORS_NAME = "vectors.faiss"
_SLACK = 1e-4
"""FAISS's own scores depend on the batch in their last digits; candidates this close to the cut are scored again."""


class Encoder:
    """Texts in, float32 [n, dim] vectors of length one out.

    Raises:
        MissingResourceError: sentence-transformers is not installed, or there is no such encoder on this machine.
    """

    def __init__(self, name: str, settings: DenseSettings) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingResourceError(
                'dense retrieval needs sentence-transformers; pip install "tspo-cli[dense]"'
            ) from None
        try:
            self._model: Any = SentenceTransformer(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MissingResourceError(f"encoder {name}: cannot be loaded ({reason}); name a model directory") from None
        self._model.max_seq_length = min(settings.max_length, self._model.max_seq_length or settings.max_length)
        self._batch_size = settings.batch_size

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors of length one, in the order of `texts`."""
        vectors = self._model.encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def build_dense(store: PassageStore, directory: Path, settings: DenseSettings, encoder: str) -> None:
    """Encode the contents of `store` into a flat inner-product index in `directory`.

    Raises:
        InvalidInputError: no encoder was named.
        MissingResourceError: see Encoder.
    """
    if not encoder:
        raise InvalidInputError("a dense index needs an encoder; give --encoder NAME_OR_DIRECTORY")
    if "e5" in Path(encoder).name.lower() and not (settings.query_prefix and settings.passage_prefix):
        warn("E5 encoders expect --set 'query_prefix=query: ' --set 'passage_prefix=passage: '")
    model = Encoder(encoder, settings)
    index: Any = None
    with progress("encoding passages", len(store)) as advance:
        # Large blocks let the encoder sort by length; they bound memory all the same.
        for start in range(0, len(store), block := 32 * settings.batch_size):
            stop = min(start + block, len(store))
            vectors = model.encode([settings.passage_prefix + store[at][1] for at in range(start, stop)])
            index = index or faiss.IndexFlatIP(vectors.shape[1])
            index.add(vectors)
            advance(stop - start)
    faiss.write_index(index, str(directory / VECTORS_NAME))


class DenseRanker:
    """Ranks by the inner product of the query's vector with every passage's."""

    def __init__(self, directory: Path, settings: DenseSettings, encoder: str) -> None:
        self._settings = settings
        self._encoder = Encoder(encoder, settings)
        self._index = faiss.read_index(str(directory / VECTORS_NAME), faiss.IO_FLAG_MMAP)
        dim = self._encoder.encode(["dimension"]).shape[1]
        if dim != self._index.d:
            raise InvalidInputError(
                f"encoder {encoder}: gives {dim} dimensions, {directory} has {self._index.d}; build the index again"
            )

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query."""
        if not queries:
            return []
        vectors = self._encoder.encode([self._settings.query_prefix + query for query in queries])
        return rank_vectors(self._index, vectors, k)


def rank_vectors(index: Any, vectors: NDArray[np.float32], k: int) -> list[Ranked]:
    """The best `k` rows of a FAISS inner-product index for each of `vectors` [n, dim].

    FAISS names the candidates; their scores are computed again one by one, so that equal vectors score equally and
    a query's answer does not depend on which others came with it.
    """
    wanted = min(k + 16, index.ntotal)
    scores, positions = index.search(vectors, wanted)
    answers = []
    for vector, near, found in zip(vectors, scores, positions, strict=True):
        while len(found) < index.ntotal and near[-1] >= near[min(k, len(near)) - 1] - _SLACK:
            near, found = (row[0] for row in index.search(vector[None], min(2 * len(found), index.ntotal)))
        found = np.sort(found)
        exact = (index.reconstruct_batch(found) * vector).sum(axis=1, dtype=np.float32)
        answers.append(top_k(exact, found, k))
    return answers
