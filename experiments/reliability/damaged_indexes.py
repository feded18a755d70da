"""Mutations of index directories, many of them with the digests of the manifest written anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.reliability.damage import (
    Mutation,
    array_edits,
    byte_damage,
    edit_json,
    json_damage,
    json_edits,
    text_edits,
)
from tspo_cli.retrieval.manifest import MANIFEST_NAME, file_facts


def signed(mutation: Mutation) -> Mutation:
    """The same, with size and digest of the file as they are now."""

    def change(path: Path) -> None:
        mutation.change(path)
        manifest = path.parent / MANIFEST_NAME
        if path.is_file() and path != manifest:
            edit_json(manifest, lambda record: _with_facts(record, path))

    return Mutation(f"{mutation.name}, signed", mutation.file, change)


def _with_facts(record: dict[str, Any], path: Path) -> dict[str, Any]:
    record["files"][path.name] = file_facts(path)
    return record


def set_at(place: int, value: Any, name: str | None = None) -> Callable[[Any], None]:
    """Sets one element of an array, or of its field `name`."""

    def change(array: Any) -> None:
        (array if name is None else array[name])[place] = value

    return change


MANIFEST_EDITS: dict[str, Any] = {
    "files": {},
    "files|none": None,
    "passages": 0,
    "passages|more": 10**9,
    "passages|true": True,
    "kind": "hybrid",
    "parameters": {"k1": "x"},
    "parameters|nan": {"k1": float("nan")},
    "lines": "../../world/corpus.jsonl",
    "encoder": "../encoder",
    "corpus": {"path": 5, "sha256": []},
    "version": 2,
}


def bm25_mutations(index: Path, count: int, draw: random.Random) -> list[Mutation]:
    """At most `count`: the manifest, then arrays and tables that lie, then chance."""
    data, places, starts = (f"{name}.csc.index.npy" for name in ("data", "indices", "indptr"))
    aimed = [
        *array_edits("offsets.npy", {
            "negative end": set_at(3, -5, "end"), "end beyond": set_at(3, 2**60, "end"),
            "falling": set_at(2, 10**4, "end"), "floats": lambda a: a["end"].astype(float),
            "two dimensions": lambda a: a[None], "nothing": lambda a: a[:0],
        }),
        *array_edits(data, {
            "NaN": lambda a: a.fill(float("nan")), "infinite": lambda a: a.fill(float("inf")),
            "integers": lambda a: a.astype(int), "objects": lambda a: a.astype(object),
        }),
        *array_edits(places, {
            "pointer beyond": lambda a: a.fill(2**30), "pointer below": lambda a: a.fill(-1),
            "float pointers": lambda a: a.astype(float),
        }),
        *array_edits(starts, {
            "start beyond": set_at(4, 2**40), "falling": set_at(4, 0), "below": set_at(4, -9),
            "short": lambda a: a[[0, -1]],
        }),
        *text_edits("vocab.index.json", {
            "list": "[]", "texts": '{"born": "x"}', "beyond": '{"born": 1000000, "was": -3}',
            "deep": "[" * 10**5,
        }),
        *json_edits("params.index.json", {"num_docs": "x", "num_docs|less": 3, "method": "zzz"}),
    ]  # fmt: skip
    made = [*json_edits(MANIFEST_NAME, MANIFEST_EDITS), *map(signed, aimed)]
    return _filled(draw.sample(made, min(len(made), count * 3 // 4)), index, count, draw)


def dense_mutations(index: Path, count: int, draw: random.Random) -> list[Mutation]:
    """At most `count`: the manifest, then vectors that lie, then chance."""
    vectors = "vectors.faiss"

    def patched(place: int, raw: bytes) -> Callable[[Path], None]:
        def change(path: Path) -> None:
            data = bytearray(path.read_bytes())
            data[place : place + len(raw)] = raw
            path.write_bytes(data)

        return change

    nan = b"\x00\x00\xc0\x7f" * 64
    aimed = [
        Mutation(f"{name}: {vectors}", vectors, change)
        for name, change in {
            "NaN": patched(-len(nan) - 4, nan),
            "all NaN": lambda path: patched(45, nan * (path.stat().st_size // 256))(path),
            "infinite": patched(53, b"\x00\x00\x80\x7f" * 32),
            "more rows": patched(8, (10**12).to_bytes(8, "little")),
            "rows below 0": patched(8, b"\xff" * 8),
            "fewer rows": patched(8, (3).to_bytes(8, "little")),
            "dimension 0": patched(4, b"\0\0\0\0"),
            "dimension 2**30": patched(4, (2**30).to_bytes(4, "little")),
            "another metric": patched(33, b"\1\0\0\0"),
            "length of codes": patched(37, b"\xff\xff\xff\xff\xff\xff\xff\x0f"),
            "other kind": patched(0, b"IwFl"),
            "unknown kind": patched(0, b"zzzz"),
        }.items()
    ]  # fmt: skip
    more = {"encoder_sha256": "0" * 64, "vectors": ["../dense/vectors.faiss"], "vectors|no": []}
    made = [*json_edits(MANIFEST_NAME, MANIFEST_EDITS | more), *map(signed, aimed)]
    return _filled(draw.sample(made, min(len(made), count * 3 // 4)), index, count, draw)


def _filled(made: list[Mutation], index: Path, count: int, draw: random.Random) -> list[Mutation]:
    """`made`, and as many mutations by chance as are missing to `count`."""
    files = sorted(path.name for path in index.iterdir() if path.is_file())
    while len(made) < count:
        file = draw.choice(files)
        is_json = file.endswith((".json", ".jsonl")) and draw.random() < 0.5
        mutation = json_damage(file, draw) if is_json else byte_damage(file, draw)
        made.append(signed(mutation) if draw.random() < 0.5 else mutation)
    return made[:count]
