"""Damage to files: bytes, JSON values and tensors. `mutations.py` says what becomes of it."""

from __future__ import annotations

import copy
import gzip
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Change = Callable[[Path], object]
DEEP = "@deep@"
"""In a value: 50,000 lists within each other, which `json.dumps` cannot write."""
VALUES: tuple[Any, ...] = (
    None, True, -1, float("nan"), float("inf"), 10**400, "x\ud800\x1b[31m", "", [], {}, [[1]],
    DEEP, "../../etc/passwd", {"step": "x"}, 0.5, 10**12,
)  # fmt: skip


def become_folder(path: Path) -> None:
    """A folder in place of the file."""
    path.unlink()
    path.mkdir()


def become_link(path: Path) -> None:
    """A link to a file outside in place of the file."""
    path.unlink()
    path.symlink_to("/etc/hostname")


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of the file or folder `file` of a copy of a directory."""

    name: str
    file: str
    change: Change

    def apply(self, folder: Path) -> None:
        self.change(folder / self.file)


def byte_damage(file: str, draw: random.Random) -> Mutation:
    """One of eight kinds of damage that need no knowledge of the file."""
    kinds: dict[str, Change] = {
        "flip": partial(flip, place=draw.random(), bit=draw.randrange(8)),
        "cut": partial(cut, share=draw.random()),
        "empty": lambda path: path.write_bytes(b""),
        "missing": Path.unlink,
        "rubbish": partial(rubbish, seed=draw.randrange(2**32)),
        "folder": become_folder,
        "link out": become_link,
        "appended": lambda path: path.write_bytes(path.read_bytes() + b"\0\xff{"),
    }
    kind = draw.choice([*kinds])
    return Mutation(f"{kind} {file}", file, kinds[kind])


def flip(path: Path, place: float, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def rubbish(path: Path, seed: int) -> None:
    path.write_bytes(random.Random(seed).randbytes(2000))


def json_damage(file: str, draw: random.Random) -> Mutation:
    """A value somewhere in a JSON file, or in a line of JSON lines, becomes another or is gone."""
    value = draw.choice([*VALUES, ...])
    shown = "removed" if value is ... else json.dumps(value)[:24]
    seed = draw.randrange(2**32)
    return Mutation(f"{shown} in {file}", file, partial(edit_somewhere, value=value, seed=seed))


def edit_somewhere(path: Path, value: Any, seed: int) -> None:
    def change(record: Any) -> Any:
        places = [(None, None), *_places(record)]
        # Three of four are not the deepest values, of which there are most.
        draw = random.Random(seed)
        holder, key = draw.choice(places if draw.random() < 0.5 else places[:12])
        if holder is None:
            return {} if value is ... else value
        if value is ...:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(value)
        return record

    edit_json(path, change, line=random.Random(seed).random())


def _places(record: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value in a record, from the outside to the inside."""
    holders = [record]
    while holders:
        holder = holders.pop(0)
        keys = range(len(holder)) if isinstance(holder, list) else list(holder)
        for key in keys:
            yield holder, key
            if isinstance(holder[key], list | dict):
                holders.append(holder[key])


def edit_json(path: Path, change: Callable[[Any], Any], line: float = 0.0) -> None:
    """Replace the record, or the one at the share `line` of the lines, by what `change` returns."""
    packed = path.suffix == ".gz"
    text = gzip.decompress(path.read_bytes()).decode() if packed else path.read_text("utf-8")
    if ".jsonl" in path.name:
        lines = text.splitlines()
        place = int(line * len(lines))
        lines[place] = _written(change(json.loads(lines[place])))
        text = "\n".join(lines) + "\n"
    else:
        text = _written(change(json.loads(text)))
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())


def _written(record: Any) -> str:
    return json.dumps(record).replace(json.dumps(DEEP), "[" * 50_000 + "]" * 50_000)


def json_edits(file: str, changes: dict[str, Any]) -> list[Mutation]:
    """A mutation for each `key`: the top-level value becomes this one (... removes it)."""

    def put(record: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
        name = key.split("|")[0]
        record.pop(name, None)
        return record if value is ... else {**record, name: value}

    return [
        Mutation(
            f"{key.split('|')[0]} = {'removed' if value is ... else json.dumps(value)[:24]}",
            file,
            partial(edit_json, change=partial(put, key=key, value=value)),
        )
        for key, value in changes.items()
    ]


def text_edits(file: str, texts: dict[str, str]) -> list[Mutation]:
    """A mutation for each text: the whole file becomes it."""
    return [
        Mutation(f"{name}: {file}", file, partial(Path.write_text, data=text))
        for name, text in texts.items()
    ]


def array_edits(file: str, changes: dict[str, Callable[[Any], Any]]) -> list[Mutation]:
    """A mutation for each change of a .npy file's array (a copy, which it may change in place)."""
    import numpy as np

    def edit(path: Path, change: Callable[[Any], Any]) -> None:
        array = np.load(path)
        changed = change(array)
        np.save(path, array if changed is None else changed, allow_pickle=True)

    return [
        Mutation(f"{name}: {file}", file, partial(edit, change=change))
        for name, change in changes.items()
    ]


def tensor_edits(
    file: str, changes: dict[str, Callable[[dict[str, Any]], object]]
) -> list[Mutation]:
    """A mutation for each change of the tensors of a safetensors file."""
    from safetensors.torch import load_file, save_file

    def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return [
        Mutation(f"{name}: {file}", file, partial(edit, change=change))
        for name, change in changes.items()
    ]


def fresh_copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target
