"""Indexes whose digests somebody has written anew: what does not fit is refused, never searched."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest

from experiments.reliability.damage import Mutation, array_edits
from experiments.reliability.damaged_indexes import bm25_mutations, dense_mutations, signed
from tests.retrieval.index.test_hostile import corpus  # noqa: F401
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.index.verify_index import verify_index

BM25 = {
    "two dimensions: offsets.npy, signed",
    "floats: offsets.npy, signed",
    "NaN: data.csc.index.npy, signed",
    "infinite: data.csc.index.npy, signed",
    "integers: data.csc.index.npy, signed",
    "objects: data.csc.index.npy, signed",
    "pointer beyond: indices.csc.index.npy, signed",
    "pointer below: indices.csc.index.npy, signed",
    "float pointers: indices.csc.index.npy, signed",
    "short: indptr.csc.index.npy, signed",
    "falling: indptr.csc.index.npy, signed",
    "list: vocab.index.json, signed",
    "deep: vocab.index.json, signed",
    'num_docs = "x", signed',
}
DENSE = {
    "all NaN: vectors.faiss, signed",
    "more rows: vectors.faiss, signed",
    "dimension 0: vectors.faiss, signed",
    "other kind: vectors.faiss, signed",
    "unknown kind: vectors.faiss, signed",
}


@pytest.fixture(scope="module")
def bm25(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    build_index(corpus, out := tmp_path_factory.mktemp("bm25") / "index")
    return out


@pytest.fixture(scope="module")
def dense(corpus: Path, tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("dense") / "index"
    build_index(corpus, out, kind="dense", encoder=tiny_encoder)
    return out


def refusals(index: Path, mutation: Mutation, folder: Path) -> list[str]:
    """The errors of opening and searching and of `tspo index verify`, empty without one."""
    shutil.copytree(index, folder / "index")
    mutation.apply(folder / "index")
    found = []
    for read in (searched, verified):
        try:
            found.append(read(folder / "index"))
        except TspoError as error:
            found.append(str(error))
    return found


def searched(index: Path) -> str:
    return open_index(index).search(["blue tower two"], 3)[0].error or ""


def verified(index: Path) -> str:
    verify_index(index)
    return ""


def is_one_line(text: str) -> bool:
    return bool(text) and "\n" not in text


def chosen(made: list[Mutation], names: set[str]) -> list[Mutation]:
    found = [mutation for mutation in made if mutation.name in names]
    assert {mutation.name for mutation in found} == names
    return found


@pytest.mark.parametrize("name", ["data", "indices", "indptr"])
@pytest.mark.parametrize("at", [-1, 300])
def test_more_in_an_array_than_its_header_says(
    bm25: Path, tmp_path: Path, name: str, at: int
) -> None:
    """At its end, or within it, so that every number behind it is another one."""
    index = Path(shutil.copytree(bm25, tmp_path / "index"))
    path = index / f"{name}.csc.index.npy"
    content = path.read_bytes()
    place = len(content) if at < 0 else min(at, len(content) - 4)
    path.write_bytes(content[:place] + b"\0" * 8 + content[place:])
    manifest = json.loads((index / "manifest.json").read_text())
    manifest["files"][path.name] = {
        "bytes": len(content) + 8,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (index / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInputError) as refused:
        open_index(index).search(["blue tower two"], 3)
    assert str(refused.value) == (
        f"{path}: expected {len(content):,} bytes, as its header says, got {len(content) + 8:,}; "
        "build the index again"
    )


def test_arrays_and_tables_that_lie(bm25: Path, tmp_path: Path) -> None:
    for number, mutation in enumerate(chosen(bm25_mutations(bm25, 99, random.Random(0)), BM25)):
        folder = tmp_path / str(number)
        assert all(map(is_one_line, refusals(bm25, mutation, folder))), mutation.name


@pytest.mark.parametrize("name", ["one passage", "a word less"])
def test_words_and_their_passages_fit(bm25: Path, tmp_path: Path, name: str) -> None:
    """One gave a score of 671, the other an unknown word, both without a word."""

    def forget(path: Path) -> None:
        words = json.loads(path.read_text())
        del words["tower"]
        path.write_text(json.dumps(words))

    edits = array_edits("indices.csc.index.npy", {"one passage": lambda array: array.fill(0)})
    edits.append(Mutation("a word less", "vocab.index.json", forget))
    (mutation,) = (edit for edit in edits if edit.name.startswith(name))
    shutil.copytree(bm25, tmp_path / "index")
    signed(mutation).apply(tmp_path / "index")
    with pytest.raises(InvalidInputError, match=r"twice or out of order|without postings"):
        verify_index(tmp_path / "index")


def test_vectors_that_lie(dense: Path, tmp_path: Path) -> None:
    for number, mutation in enumerate(chosen(dense_mutations(dense, 99, random.Random(0)), DENSE)):
        folder = tmp_path / str(number)
        assert all(map(is_one_line, refusals(dense, mutation, folder))), mutation.name


@pytest.mark.parametrize("files", [{}, {"offsets.npy": {"bytes": 1, "sha256": "x"}}])
def test_an_index_without_digests_is_not_verified(
    files: dict[str, object], bm25: Path, tmp_path: Path
) -> None:
    import json

    folder = Path(shutil.copytree(bm25, tmp_path / "index"))
    manifest = json.loads((folder / "manifest.json").read_text()) | {"files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInputError, match="files has no size and digest"):
        verify_index(folder)
