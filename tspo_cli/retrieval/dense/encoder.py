"""Texts to vectors with any sentence-transformers encoder, in batches of equal cost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.disk import atomic_write_bytes
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.dense.load_encoder import load_encoder

EXPORTED_NAME = "encoder.onnx"
_MOST_PADDING = {"cpu": 64, "cuda": 1 << 14}
"""Padding tokens in one batch. Another batch costs MiniLM as much as 24 to 48 tokens on a CPU, and
as much as thousands on a GPU, where the launch of kernels takes the time.
"""
_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")


class Encoder:
    """Encodes texts as float32 vectors [n, dim], of length one if `normalize` is set.

    Args:
        exported: the ONNX file that `keep` wrote, for `encoder_backend` onnx. None: export now,
            which takes seconds.

    Raises:
        MissingResourceError: sentence-transformers or the backend is not installed, or there is no
            such encoder on this machine.
        InvalidInputError: its files are damaged or lack tensors, or the backend does not reproduce
            its vectors.
    """

    def __init__(self, name: str, settings: DenseSettings, exported: Path | None = None) -> None:
        self._model: Any = load_encoder(name, settings)
        self._exported: bytes | None = None
        if settings.encoder_backend != "torch":
            from tspo_cli.retrieval.dense.onnx_encoder import OnnxTransformer, export

            self._exported = (
                exported.read_bytes() if exported else export(self._model, settings.encoder_backend)
            )
            self._onnx = OnnxTransformer(self._model, self._exported)
        self._settings = settings
        limit = self._model.max_seq_length or settings.max_length
        self._max_length = min(settings.max_length, limit)
        self._model.max_seq_length = self._max_length

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self._model.get_embedding_dimension())

    @property
    def query_prefix(self) -> str:
        """The text before every query."""
        return self._settings.query_prefix

    def encode(self, texts: Sequence[str], prefix: str = "") -> NDArray[np.float32]:
        """Vectors in the order of `texts`, float32 [n, dim]; `prefix` stands before each of them.
        No other prompt does: the model's own are settings here (`own_prompts`).

        Texts of similar length share a batch, because padding costs time. The same texts always
        give the same batches.

        Raises:
            InvalidInputError: the encoder returns numbers that are not finite.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        if not texts:
            return vectors
        tokens = self._model.tokenizer(
            [prefix + text for text in texts], truncation=True, max_length=self._max_length
        )
        prompt = {"prompt_length": self._prompt_length(prefix)} if prefix else {}
        if self._exported is not None:
            vectors[:] = self._onnx.encode(tokens, prompt)
        else:
            self._in_batches(tokens, vectors, prompt)
        if not np.isfinite(vectors).all():
            raise InvalidInputError(
                "encoder: returns numbers that are not finite; use --set dtype=float32"
            )
        if self._settings.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _prompt_length(self, prefix: str) -> int:
        """Tokens at the start that pooling leaves out if the model's says so (include_prompt)."""
        tokenizer = self._model.tokenizer
        ids = tokenizer(prefix)["input_ids"]
        return len(ids) - sum(token in tokenizer.all_special_ids for token in ids[-1:])

    def _in_batches(
        self, tokens: Any, vectors: NDArray[np.float32], prompt: dict[str, int]
    ) -> None:
        import torch

        lengths = [len(ids) for ids in tokens["input_ids"]]
        settings, padding = self._settings, _MOST_PADDING[self._model.device.type]
        for rows in budget_batches(lengths, settings.batch_tokens, settings.batch_size, padding):
            batch = {name: [values[row] for row in rows] for name, values in tokens.items()}
            features = self._model.tokenizer.pad(batch, return_tensors="pt").to(self._model.device)
            with torch.inference_mode():
                vectors[rows] = (
                    self._model({**features, **prompt})["sentence_embedding"].float().cpu().numpy()
                )

    def keep(self, directory: Path) -> None:
        """Write the exported encoder, if there is one, for later searches of the same index."""
        if self._exported is not None:
            atomic_write_bytes(directory / EXPORTED_NAME, self._exported)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """`encode` with the prefix of queries."""
        return self.encode(queries, self._settings.query_prefix)

    def encode_passages(self, contents: Sequence[str]) -> NDArray[np.float32]:
        """`encode` with the prefix of passages."""
        return self.encode(contents, self._settings.passage_prefix)


def budget_batches(
    lengths: Sequence[int], most_tokens: int, most_texts: int, most_padding: int
) -> Iterator[list[int]]:
    """Rows in batches of falling length.

    A batch has at most `most_tokens` padded tokens, `most_texts` rows and `most_padding` tokens of
    padding.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        most = max(1, min(most_texts, most_tokens // max(1, longest)))
        padding = accumulate(longest - lengths[row] for row in order[start : start + most])
        count = sum(1 for _ in takewhile(lambda tokens: tokens <= most_padding, padding))
        yield order[start : start + count]
        start += count


def encoder_digest(name: str) -> str | None:
    """SHA-256 of an encoder's configuration, vocabulary and weights; None for a name on the hub."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    files = {path for pattern in _WEIGHTS for path in folder.rglob(pattern)}
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with open(path, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
