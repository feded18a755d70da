"""Encoders in ONNX Runtime: the vectors of torch, whatever comes with a text, and recorded in the
index.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.dense.encoder import EXPORTED_NAME, Encoder
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.search_settings import index_settings

TEXTS = [
    "a",
    "river and stone " * 40,
    "a musical instrument",
    "the old bridge over the lake",
    "lake",
] * 3

pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.mark.parametrize(("backend", "least"), [("onnx", 0.9999), ("onnx-int8", 0.97)])
def test_vectors_are_those_of_torch_and_alone_as_together(
    backend: str, least: float, tiny_encoder: str
) -> None:
    expected = Encoder(tiny_encoder, DenseSettings(max_length=64)).encode(TEXTS)
    model = Encoder(tiny_encoder, DenseSettings(max_length=64, encoder_backend=backend))
    together = model.encode(TEXTS)
    assert (together * expected).sum(axis=1).min() > least
    np.testing.assert_array_equal(
        together, np.concatenate([model.encode([text]) for text in TEXTS])
    )
    assert model.encode([]).shape == (0, 32)


def test_the_index_keeps_the_encoder_that_made_it(tiny_encoder: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"id": str(i), "contents": t}) + "\n" for i, t in enumerate(TEXTS[:5]))
    )
    for name in ("one", "two"):
        manifest = build_index(
            corpus,
            tmp_path / name,
            kind="dense",
            encoder=tiny_encoder,
            settings={"encoder_backend": "onnx-int8"},
        )
    assert manifest["parameters"]["encoder_backend"] == "onnx-int8"
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    same = open_index(tmp_path / "one")
    assert same.search_settings == {}
    contents = [text for _, text in same.passages()]
    assert [result.hits[0].id for result in same.search(contents, 1)] == list("01234")
    other = open_index(tmp_path / "one", {"encoder_backend": "torch"})
    assert other.search_settings == {"encoder_backend": "torch"}
    exact = same.search(contents[4:], 1)[0].hits[0].score
    assert exact == pytest.approx(1, abs=1e-6) != other.search(contents[4:], 1)[0].hits[0].score
    (tmp_path / "one" / EXPORTED_NAME).write_bytes(
        (tmp_path / "one" / EXPORTED_NAME).read_bytes()[:-1] + b"x"
    )
    with pytest.raises(InvalidInputError, match=r"encoder.onnx: expected sha256"):
        open_index(tmp_path / "one")


def test_what_does_not_go_together_is_named(
    tiny_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InvalidInputError, match="dtype: expected float32 with onnx, got 'bfloat16'"
    ):
        index_settings("dense", {"encoder_backend": "onnx", "dtype": "bfloat16"})
    with pytest.raises(InvalidInputError, match="device: expected auto or cpu with onnx-int8"):
        index_settings("dense", {"encoder_backend": "onnx-int8", "device": "cuda"})
    with pytest.raises(
        InvalidInputError,
        match="encoder_backend: expected one of torch, onnx, onnx-int8, got 'onx'",
    ):
        index_settings("dense", {"encoder_backend": "onx"})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingResourceError, match=r'pip install "tspo-cli\[onnx\]"'):
        Encoder(tiny_encoder, DenseSettings(encoder_backend="onnx"))
