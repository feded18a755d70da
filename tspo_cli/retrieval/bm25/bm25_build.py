"""A BM25 index written as a stream: memory holds one block of passages and the vocabulary.

The files are byte for byte those that bm25s 0.3 saves from memory, and its formulas compute the
scores.
"""

from __future__ import annotations

import json
import math
import mmap
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from bm25s.scoring import _select_idf_scorer, _select_tfc_scorer
from numpy.typing import NDArray

from tspo_cli.config.sections.index_settings import Bm25Settings
from tspo_cli.console import byte_size, counted, duration, say, track
from tspo_cli.disk import reserve, writing
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.bm25.bm25_ranker import decide_tokens, tokens
from tspo_cli.retrieval.passages import PassageStore

_BLOCK_WORDS = 2_000_000
"""Words in one block: about 200 MB while it is sorted."""
_PROBE = 2_000
"""Passages that an estimate reads."""


def build_bm25(
    store: PassageStore, directory: Path, scratch: Path, settings: Bm25Settings
) -> Bm25Settings:
    """Index the contents of `store` into `directory`. `scratch` holds the word ids, 4 bytes each.
    Returns `settings` with words or ngrams in place of auto.

    Two passes: the first assigns word ids and counts, the second writes every posting at its offset
    in the mapped output.

    Raises:
        InvalidInputError: no passage has a word that can be searched for.
        MissingResourceError: as `tokens`.
    """
    step = max(1, len(store) // _PROBE)
    probe = [store[position][1] for position in range(0, len(store), step)]
    chosen, share = decide_tokens(settings, probe)
    if chosen != settings and share > 0:
        say(f"tokens: {chosen.tokens}; {share:.1%} of the letters belong to scripts without spaces")
    settings = chosen
    say(estimate_bm25(len(store), probe, settings).text(len(store), store.bytes))
    words_path = scratch / "words.i32"
    vocabulary, lengths = _assign_word_ids(store, words_path, settings)
    if not vocabulary:
        raise InvalidInputError(
            "corpus: no passage holds a searchable word; check the contents, or use --kind dense"
        )
    blocks = list(_blocks(lengths))
    frequencies = np.zeros(len(vocabulary), np.int64)
    for first, last, words in _block_words(words_path, lengths, blocks):
        _, ids, _ = _postings(words, lengths[first:last], len(vocabulary))
        frequencies += np.bincount(ids, minlength=len(vocabulary))
    idf_of = _select_idf_scorer(settings.method)
    idf = np.array(
        [idf_of(int(count), N=len(lengths)) for count in frequencies.tolist()], np.float32
    )
    _write_postings(directory, words_path, lengths, blocks, frequencies, idf, settings)
    _write_vocabulary(directory, vocabulary, len(lengths), settings)
    words_path.unlink()
    return settings


@dataclass(frozen=True)
class Bm25Estimate:
    """The cost of a BM25 build: bytes of the search structures and of scratch files, and of memory
    without the libraries.
    """

    index_bytes: int
    scratch_bytes: int
    memory_bytes: int
    seconds: float

    def text(self, passages: int, passages_bytes: int) -> str:
        """One line for a person. `passages_bytes`: the passages that are kept beside the index."""
        return (
            f"estimate: BM25 of {counted(passages, 'passage')}, about "
            f"{duration(self.seconds)}; index "
            f"{byte_size(self.index_bytes + passages_bytes)} with the passages, "
            f"{byte_size(self.scratch_bytes)} more on disk while it is built, memory "
            f"{byte_size(self.memory_bytes)}"
        )


def estimate_bm25(passages: int, probe: Sequence[str], settings: Bm25Settings) -> Bm25Estimate:
    """Estimate from `probe`, a sample of the passages. The vocabulary grows by Heaps' law."""
    settings, _ = decide_tokens(settings, probe)
    started = time.perf_counter()
    bags = [tokens(text, settings) for text in probe]
    reading = (time.perf_counter() - started) / len(probe)
    words = sum(map(len, bags)) / len(probe)
    seen = [len({word for bag in bags[:: 2 // part] for word in bag}) for part in (1, 2)]
    growth = math.log2(max(1, seen[1]) / max(1, seen[0]))
    vocabulary = seen[1] * (passages / len(probe)) ** growth
    postings = sum(len(set(bag)) for bag in bags) / len(probe)
    spelt = sum(len(word.encode("utf-8", "replace")) for bag in bags for word in set(bag))
    letters = spelt / max(1, postings * len(probe))
    # 8 bytes for each different word of a passage, two numbers; 4 bytes a word in the scratch file.
    # A word of the vocabulary is spelt with its number, and has an offset. To sort and write
    # a word twice takes about 0.6 microseconds and, in a block, 100 bytes. A word of the vocabulary
    # takes about 250 bytes, the length of a passage 8: experiments/benchmarks/retrieval_build.py.
    return Bm25Estimate(
        index_bytes=int(8 * postings * passages + (letters + 18) * vocabulary),
        scratch_bytes=int(4 * words * passages),
        memory_bytes=int(
            100 * min(_BLOCK_WORDS, words * passages) + 250 * vocabulary + 8 * passages
        ),
        seconds=passages * (2 * reading + words * 0.6e-6),
    )


def _assign_word_ids(
    store: PassageStore, path: Path, settings: Bm25Settings
) -> tuple[dict[str, int], NDArray[np.int64]]:
    """Write the word ids of all passages as consecutive int32; returns vocabulary and lengths."""
    vocabulary: dict[str, int] = {}
    lengths = array("q")
    with writing(path), open(path, "wb") as handle:
        for text in track(store.contents(), "reading passages", total=len(store)):
            words = tokens(text, settings)
            array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words]).tofile(
                handle
            )
            lengths.append(len(words))
    return vocabulary, np.frombuffer(lengths, np.int64)


def _blocks(lengths: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Passages in consecutive blocks of about _BLOCK_WORDS words."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK_WORDS, "right")))
        yield first, last
        first = last


def _block_words(
    path: Path, lengths: NDArray[np.int64], blocks: list[tuple[int, int]]
) -> Iterator[tuple[int, int, NDArray[np.int32]]]:
    with open(path, "rb") as handle:
        for first, last in blocks:
            yield first, last, np.fromfile(handle, np.int32, int(lengths[first:last].sum()))


def _postings(
    words: NDArray[np.int32], lengths: NDArray[np.int64], vocabulary: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(passage within the block, word id, count) of every pair, sorted by word, then by passage."""
    passages = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    pairs, counts = np.unique(words.astype(np.int64) * len(lengths) + passages, return_counts=True)
    return pairs % len(lengths), pairs // len(lengths), counts


def _write_postings(
    directory: Path,
    words_path: Path,
    lengths: NDArray[np.int64],
    blocks: list[tuple[int, int]],
    frequencies: NDArray[np.int64],
    idf: NDArray[np.float32],
    settings: Bm25Settings,
) -> None:
    starts = np.concatenate([[0], np.cumsum(frequencies)])
    total = int(starts[-1])
    offsets_path = directory / "indptr.csc.index.npy"
    with writing(offsets_path, starts.nbytes):
        np.save(offsets_path, starts, allow_pickle=False)
    data = _output(directory / "data.csc.index.npy", np.float32, total)
    indices = _output(directory / "indices.csc.index.npy", np.int32, total)
    term_score = _select_tfc_scorer(settings.method)
    average = lengths.mean()
    filled = starts[:-1].copy()
    for first, last, words in track(
        _block_words(words_path, lengths, blocks), "writing postings", total=len(blocks)
    ):
        passages, ids, counts = _postings(words, lengths[first:last], len(idf))
        in_block = np.bincount(ids, minlength=len(idf))
        within = np.arange(len(ids)) - (np.cumsum(in_block) - in_block)[ids]
        offsets = filled[ids] + within
        # One call of the scorer for the block, with an array of lengths; bm25s calls it for every
        # passage with one length.
        term = term_score(
            tf_array=counts.astype(np.float32),
            l_d=lengths[first:last][passages],
            l_avg=average,
            k1=settings.k1,
            b=settings.b,
            delta=0.5,
        )
        data[offsets] = idf[ids] * term
        indices[offsets] = passages + first
        filled += in_block
        _release(data, indices)


def _output(path: Path, dtype: Any, size: int) -> NDArray[Any]:
    with writing(path, size * np.dtype(dtype).itemsize):
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(size,))
        reserve(path)
    return mapped


def _release(*arrays: NDArray[Any]) -> None:
    """Release mapped pages, so that memory stays at one block. The page cache keeps the data."""
    for mapped in arrays:
        memory: mmap.mmap = mapped._mmap  # type: ignore[attr-defined]
        memory.madvise(mmap.MADV_DONTNEED)


def _write_vocabulary(
    directory: Path, vocabulary: dict[str, int], passages: int, settings: Bm25Settings
) -> None:
    path = directory / "vocab.index.json"
    with writing(path), open(path, "w", encoding="utf-8") as handle:
        json.dump(vocabulary, handle, ensure_ascii=False)
    index = bm25s.BM25(method=settings.method, k1=settings.k1, b=settings.b)
    parameters = {
        **{
            name: getattr(index, name)
            for name in ("k1", "b", "delta", "method", "idf_method", "dtype", "int_dtype")
        },
        "num_docs": passages,
        "version": bm25s.__version__,
        "backend": index.backend,
    }
    path = directory / "params.index.json"
    with writing(path), open(path, "w", encoding="utf-8") as handle:
        json.dump(parameters, handle, indent=4)
