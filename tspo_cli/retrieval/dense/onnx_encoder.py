"""An encoder's transformer in ONNX Runtime on the CPU, in float32 or with int8 weights and
activations.

sentence-transformers has such backends through optimum, which needs an older transformers than this
project. Here torch exports, and ONNX Runtime fuses and quantises (dynamically, weights per
channel).

Every text runs alone. The activations of an int8 batch share one scale, and a vector must not
depend on the other texts of a batch. It also avoids padding. Several cores work on several texts.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspo_cli.console import say
from tspo_cli.errors import InvalidInputError
from tspo_cli.packages import missing

_PROBES = ("a short text", "another text, which is somewhat longer than the first one")
_LEAST_COSINE = {"onnx": 0.9999, "onnx-int8": 0.95}
"""Cosine similarity of the exported transformer's vectors with torch's. Below it, export failed."""


class OnnxTransformer:
    """A sentence-transformers model whose first module runs in ONNX Runtime.

    Args:
        model: the model, on the CPU.
        exported: the model as `export` returned it.

    Raises:
        MissingResourceError: ONNX Runtime is not installed.
    """

    def __init__(self, model: Any, exported: bytes) -> None:
        runtime = _runtime()
        import torch

        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Otherwise every thread keeps the memory of its longest text.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(
            exported, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._later_modules = list(model)[1:]
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="onnx")

    def encode(
        self, tokens: Mapping[str, Sequence[Sequence[int]]], prompt: Mapping[str, int] | None = None
    ) -> NDArray[np.float32]:
        """Vectors [n, dim] of n tokenised texts, unpadded.

        `prompt` has the `prompt_length` of texts whose first tokens are not pooled.
        """
        rows = range(len(tokens["input_ids"]))

        def encode_row(row: int) -> NDArray[np.float32]:
            return self._encode_text(
                {name: tokens[name][row] for name in self._inputs}, prompt or {}
            )

        vectors: Iterable[NDArray[np.float32]] = (
            self._pool.map(encode_row, rows) if self._threads > 1 else map(encode_row, rows)
        )
        return np.stack(list(vectors))

    def _encode_text(
        self, tokens: Mapping[str, Sequence[int]], prompt: Mapping[str, int]
    ) -> NDArray[np.float32]:
        import torch

        inputs = {name: np.asarray([ids], np.int64) for name, ids in tokens.items()}
        hidden = torch.from_numpy(self._session.run(None, inputs)[0])
        features: dict[str, Any] = {
            **prompt,
            "token_embeddings": hidden,
            "attention_mask": torch.ones(hidden.shape[:2], dtype=torch.int64),
        }
        with torch.inference_mode():
            for module in self._later_modules:
                features = module(features)
        vector: NDArray[np.float32] = features["sentence_embedding"][0].float().numpy()
        return vector


def export(model: Any, backend: str) -> bytes:
    """The first module of a sentence-transformers model as an ONNX file.

    The same model gives the same bytes.

    Raises:
        MissingResourceError: ONNX or ONNX Runtime is not installed.
        InvalidInputError: the exported transformer does not reproduce the vectors of the model.
    """
    _runtime()
    say(f"exporting the encoder for {backend}")
    with _without_warnings(), tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "encoder.onnx"
        _fuse(_traced(model), model[0].auto_model.config, file)
        if backend == "onnx-int8":
            _quantise(file)
        exported = file.read_bytes()
    _check(model, exported, backend)
    return exported


def _traced(model: Any) -> bytes:
    import torch

    class LastHidden(torch.nn.Module):
        """Returns [n, tokens, dim] only, because a traced model cannot return a mapping."""

        def __init__(self, transformer: torch.nn.Module, names: list[str]) -> None:
            super().__init__()
            self.transformer, self.names = transformer, names

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.transformer(
                **dict(zip(self.names, inputs, strict=True))
            ).last_hidden_state
            return hidden

    example = model.tokenizer(list(_PROBES), padding=True, return_tensors="pt")
    names = list(example)
    file: Any = io.BytesIO()  # torch accepts it, although its annotation does not
    with torch.inference_mode():
        torch.onnx.export(
            LastHidden(model[0].auto_model.eval(), names),
            tuple(example[name] for name in names),
            file,
            input_names=names,
            output_names=["hidden"],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in (*names, "hidden")},
            opset_version=17,
            dynamo=False,
        )
    return file.getvalue()


def _fuse(exported: bytes, config: Any, file: Path) -> None:
    """Fuse attention, GELU and layer normalisation into one operator each, if ONNX finds them."""
    import onnx
    from onnxruntime.transformers.optimizer import optimize_model

    fused = optimize_model(
        onnx.load_from_string(exported),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    fused.save_model_to_file(str(file))


def _quantise(file: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        file,
        file,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Otherwise products overflow 16 bits on CPUs without VNNI, and vectors differ between
        # machines.
        reduce_range=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _check(model: Any, exported: bytes, backend: str) -> None:
    tokens = model.tokenizer(list(_PROBES))
    onnx_vectors = OnnxTransformer(model, exported).encode(tokens)
    # Without prompt="" its default prompt would stand before these texts only.
    torch_vectors = model.encode(
        list(_PROBES), prompt="", convert_to_numpy=True, show_progress_bar=False
    )
    norms = np.linalg.norm(onnx_vectors, axis=1) * np.linalg.norm(torch_vectors, axis=1)
    products = (onnx_vectors * torch_vectors).sum(axis=1)
    cosine = float((products / np.maximum(norms, 1e-12)).min())
    if not cosine >= _LEAST_COSINE[backend]:
        raise InvalidInputError(
            f"setting encoder_backend: {backend} does not reproduce this encoder's vectors "
            f"(cosine {cosine:.3f}); use encoder_backend=torch"
        )


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise missing({"onnxruntime": "encoder_backend onnx"}, str(error)) from None
    return onnxruntime


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence exporters: their warnings and advice concern models that cannot be changed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
