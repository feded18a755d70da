"""Arrays of an index with another form or type, and the manifest that agrees: a refusal of one
line, never other passages.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.dense.dense_ranker import VectorIndex, write_vectors
from tspo_cli.retrieval.dense.vectors import ShardedVectors
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.manifest import file_facts
from tspo_cli.retrieval.types import RESCORE_NAME

Array = NDArray[Any]
QUERY = "blue whale"
FORMS: dict[str, Callable[[Array], Array]] = {
    "a row": lambda array: array.reshape(1, -1),
    "a cube": lambda array: array.reshape(-1, 1, 1),
    "no dimension": lambda array: array.reshape(-1)[0],
    "length 0": lambda array: array[:0],
    "one element less": lambda array: array[:-1],
    "in the order of Fortran": lambda array: np.zeros((2, 3), array.dtype, order="F"),
    "bytes in the other order": lambda array: array.astype(array.dtype.newbyteorder()),
    "words": lambda array: np.full(array.shape, "7"),
    "bytes": lambda array: np.full(array.shape, b"7"),
    "no type": lambda array: np.zeros(array.shape, "V3"),
    "objects": lambda array: np.full(array.shape, 7, object),
    "truth values": lambda array: np.ones(array.shape, bool),
    "complex numbers": lambda array: np.ones(array.shape, complex),
    "times": lambda array: np.ones(array.shape, "m8[s]"),
    "large integers": lambda array: np.ones(array.shape, np.uint64),
    "small integers": lambda array: np.ones(array.shape, np.int8),
    "large fractions": lambda array: np.ones(array.shape, np.longdouble),
    "a structure": lambda array: np.zeros(array.shape, [("a", "<i8")]),
    "two columns of a structure": lambda array: np.zeros(array.shape, [("a", "<i8"), ("b", "f4")]),
}
FILES = ("data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy", "offsets.npy")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrays")
    texts = ("red lake", "blue whale", "old tower", "blue lake")
    lines = (json.dumps({"id": text, "contents": f'"T"\n{text}'}) for text in texts)
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    build_index(folder / "corpus.jsonl", folder / "index")
    return folder / "index"


def damaged(index: Path, folder: Path, file: str, payload: bytes | Array) -> Path:
    """A copy of the index with another file and its digest."""
    shutil.copytree(index, folder)
    if isinstance(payload, bytes):
        (folder / file).write_bytes(payload)
    else:
        np.save(folder / file, payload)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = file_facts(folder / file)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", FILES)
def test_an_array_of_another_form_is_refused(
    index: Path, tmp_path: Path, file: str, form: str
) -> None:
    other = damaged(index, tmp_path / "index", file, FORMS[form](np.load(index / file)))
    with pytest.raises(InvalidInputError, match=r"build the index again|passages, got"):
        open_index(other).search([QUERY], 3)


def header(text: str) -> bytes:
    """An array without data, whose header is `text`."""
    return b"\x93NUMPY\1\0" + (len(text) + 1).to_bytes(2, "little") + f"{text}\n".encode()


HEADERS = (
    *("-" * 9000 + "1", "(" * 9000, "{" * 99 + "}" * 99, "{1: 2, 'a': 3}", "x" * 60_000),
    "{'descr': '<i8', 'fortran_order': False, 'shape': (True,)}",
    f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**70},)}}",
)
JUNK = (b"", b"junk" * 40, b"PK\x03\x04" + bytes(60), *map(header, HEADERS))


@pytest.mark.parametrize("payload", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize("file", FILES)
def test_what_is_no_array_is_refused(
    index: Path, tmp_path: Path, file: str, payload: bytes
) -> None:
    with pytest.raises(InvalidInputError, match=f"{file}: damaged .*build the index again"):
        open_index(damaged(index, tmp_path / "index", file, payload))


@pytest.mark.parametrize("form", [name for name in FORMS if name != "a cube"])
def test_full_vectors_of_another_form_are_refused(tmp_path: Path, form: str) -> None:
    settings = DenseSettings(factory="SQ8", rescore="float16")
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    shards = ShardedVectors(tmp_path / "shards", 40, 40, "float32")
    shards.put(0, vectors)
    write_vectors(shards, 40, 8, tmp_path, settings)
    np.save(tmp_path / RESCORE_NAME, FORMS[form](np.load(tmp_path / RESCORE_NAME)))
    with pytest.raises(InvalidInputError, match=f"{RESCORE_NAME}: (expected|damaged) "):
        VectorIndex([tmp_path / "vectors.faiss"], tmp_path / RESCORE_NAME, settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("method", "bm25l"), ("method", 3), ("backend", "numba"), ("num_docs", 4.0)),
        *(("dtype", "int32"), ("dtype", "object"), ("dtype", "zzz"), ("int_dtype", "int8")),
        *(("csc_backend", "zzz"), ("k1", "x"), ("idf_method", None)),
    ],
)
def test_how_the_scores_came_about_changes_nothing(
    index: Path, tmp_path: Path, name: str, value: object
) -> None:
    """They are in the postings. Other types and methods were an error at the first query."""
    file = "params.index.json"
    parameters = json.loads((index / file).read_text()) | {name: value}
    other = damaged(index, tmp_path / "index", file, json.dumps(parameters).encode())
    assert open_index(other).search([QUERY], 3) == open_index(index).search([QUERY], 3)
