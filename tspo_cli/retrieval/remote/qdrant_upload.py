"""The upload of a corpus to a Qdrant collection."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.config.sections.index_settings import Bm25Settings, ChunkSettings
from tspo_cli.console import progress, say
from tspo_cli.data.corpus.corpus_files import check_corpus
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.bm25.bm25_ranker import decide_tokens, tokens
from tspo_cli.retrieval.passages import PassageStore, write_passages
from tspo_cli.retrieval.remote.qdrant import (
    SPARSE_NAMES,
    Encode,
    load_encoder,
    one_line_errors,
    open_client,
    sparse_vector,
)
from tspo_cli.retrieval.search_settings import index_settings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

SETTINGS = {
    "sparse": ("k1", "b", "tokens", "min_word", *ChunkSettings.model_fields),
    "dense": (
        *("passage_prefix", "max_length", "batch_size", "batch_tokens", "dtype", "device"),
        *ChunkSettings.model_fields,
    ),
}
"""The settings of an index that a collection of each kind has too. The others either belong to
files that a collection does not have, or a search of the collection would have to know them.
"""
_SAMPLED = 2_000
"""Passages that decide between words and ngrams."""
_UPLOAD_BATCH = 256


def push_corpus(
    url: str,
    collection: str,
    corpus: Sequence[Path],
    *,
    kind: str = "sparse",
    encoder: str = "",
    settings: Mapping[str, object] | None = None,
    skip_duplicates: bool = False,
) -> int:
    """Create `collection` at `url` with the passages of a corpus and return their number.

    The corpus is read, cut and rid of duplicates as for an index (`build_index`); its passages lie
    in the directory for temporary files until they are uploaded.

    Raises:
        InvalidInputError: an unknown kind or setting; one that a collection cannot have; the
            collection exists; or a malformed corpus.
        MissingResourceError: no such corpus or encoder, or qdrant-client is not installed.
        RemoteServiceError: Qdrant does not answer.
    """
    if kind not in SETTINGS:
        raise InvalidInputError(f"kind: expected {' or '.join(SETTINGS)}, got {kind!r}")
    given = settings or {}
    chosen = index_settings({"sparse": "bm25"}.get(kind, kind), given)
    for name in given:
        if name not in SETTINGS[kind]:
            raise InvalidInputError(
                f"setting {name!r}: not for a {kind} collection; known are "
                f"{', '.join(SETTINGS[kind])}"
            )
    check_corpus(corpus)
    client = open_client(url, timeout=60)
    check_absent(client, collection)
    encode: Encode | None = None
    if kind == "dense":
        of_encoder = {n: v for n, v in given.items() if n not in ChunkSettings.model_fields}
        encode = load_encoder(encoder, of_encoder, "passage_prefix").encode_passages
    with tempfile.TemporaryDirectory(prefix="tspo-push-") as scratch:
        write_passages(corpus, Path(scratch), chosen.chunking, skip_duplicates=skip_duplicates)
        store = PassageStore(Path(scratch))
        with progress("uploading passages", len(store)) as advance:
            if encode is not None:
                return push_dense(client, collection, store, encode, advance)
            assert chosen.bm25 is not None
            return push_sparse(client, collection, store, chosen.bm25, advance)


def push_sparse(
    client: QdrantClient,
    collection: str,
    store: PassageStore,
    settings: Bm25Settings,
    advance: Callable[[int], None],
) -> int:
    """Create `collection` with the BM25 vectors of the passages and return their number.

    The passages are read twice.

    Raises:
        InvalidInputError: the collection exists.
        RemoteServiceError: Qdrant does not answer.
    """
    from qdrant_client import models

    settings, _ = decide_tokens(settings, store.sample(_SAMPLED))
    if settings.tokens == "ngrams":
        say("tokens: ngrams; search it with retriever.qdrant.tokens=ngrams")
    name = SPARSE_NAMES[settings.tokens]
    lengths = [len(tokens(contents, settings)) for contents in store.contents()]
    mean = sum(lengths) / len(lengths)

    def vectors() -> Iterator[Any]:
        for contents, length in zip(store.contents(), lengths, strict=True):
            norm = settings.k1 * (1 - settings.b + settings.b * length / mean)
            counts = Counter(tokens(contents, settings))
            yield {
                name: sparse_vector({word: tf / (tf + norm) for word, tf in counts.items()})
                or _empty_vector()
            }

    _create(
        client,
        collection,
        vectors_config={},
        sparse_vectors_config={name: models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    return _upload(client, collection, store, vectors(), advance)


def push_dense(
    client: QdrantClient,
    collection: str,
    store: PassageStore,
    encode: Encode,
    advance: Callable[[int], None],
) -> int:
    """Create `collection` with the encoder's vectors of the passages and return their number.
    `encode` puts the prefix before them.

    Raises as `push_sparse`.
    """
    from qdrant_client import models

    def vectors() -> Iterator[Any]:
        source = store.contents()
        while block := list(islice(source, 8 * _UPLOAD_BATCH)):
            yield from encode(block).tolist()

    dim = len(encode(["dimension"])[0])
    _create(
        client,
        collection,
        vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT),
    )
    return _upload(client, collection, store, vectors(), advance)


def check_absent(client: QdrantClient, collection: str) -> None:
    """Raises InvalidInputError if the collection exists, RemoteServiceError if Qdrant does not
    answer.
    """
    with one_line_errors("upload"):
        if client.collection_exists(collection):
            raise InvalidInputError(
                f"qdrant: collection {collection!r} exists already; choose another --collection"
            )


def _create(client: QdrantClient, collection: str, **config: Any) -> None:
    check_absent(client, collection)
    with one_line_errors("upload"):
        client.create_collection(collection, **config)


def _upload(
    client: QdrantClient,
    collection: str,
    store: PassageStore,
    vectors: Iterable[Any],
    advance: Callable[[int], None],
) -> int:
    from qdrant_client import models

    count = 0

    def point(position: int, vector: Any) -> models.PointStruct:
        """The id of a point is its position in the corpus."""
        identifier, contents = store[position]
        payload = {"id": identifier, "contents": contents}
        return models.PointStruct(id=position, vector=vector, payload=payload)

    points = (point(position, vector) for position, vector in enumerate(vectors))
    with one_line_errors("upload"):
        while batch := list(islice(points, _UPLOAD_BATCH)):
            client.upsert(collection, batch, wait=True)
            count += len(batch)
            advance(len(batch))
    return count


def _empty_vector() -> Any:
    from qdrant_client import models

    return models.SparseVector(indices=[], values=[])
