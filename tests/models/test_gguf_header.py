"""A GGUF file whose header says what cannot be is one line, before a library goes by it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader

from tests.models.tiny_gguf import write_gguf
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.gguf_header import check_header
from tspo_cli.models.convert_gguf import convert_gguf

Change = Callable[[bytearray, GGUFReader], bytes | bytearray | None]
HUGE = 2**60


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "good.gguf"
    write_gguf(file)
    return file


def put(place: int, form: str, value: float) -> Change:
    """Write a number at a place."""
    return lambda raw, reader: struct.pack_into(form, raw, place, value)


def field(name: str, beyond: int, form: str, value: float) -> Change:
    """Write a number behind the name of a field: its type (0), then its value (4); of an array the
    type (4) and number (8) of its items.
    """

    def change(raw: bytearray, reader: GGUFReader) -> None:
        struct.pack_into(form, raw, reader.fields[name].offset + 8 + len(name) + beyond, value)

    return change


def tensor(number: int, part: int, form: str, value: int) -> Change:
    """Write a part of what the file says of a tensor: the length of its name (0), its number of
    dimensions (2), the dimensions (3), its type (4), its place (5).
    """

    def change(raw: bytearray, reader: GGUFReader) -> None:
        told = reader.tensors[number].field
        before = sum(int(one.nbytes) for one in told.parts[:part])
        struct.pack_into(form, raw, told.offset + before, value)

    return change


def nested(depth: int) -> Change:
    """Another field, of arrays within each other."""

    def change(raw: bytearray, reader: GGUFReader) -> bytes:
        (count,) = struct.unpack_from("<Q", raw, 16)
        more = struct.pack("<Q", 1) + b"x" + struct.pack("<I", 9)
        more += struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQB", 0, 1, 0)
        return raw[:16] + struct.pack("<Q", count + 1) + more + raw[24:]

    return change


def more_fields(fields: int, content: bytes) -> Change:
    """So many fields before the others."""

    def change(raw: bytearray, reader: GGUFReader) -> bytes:
        (count,) = struct.unpack_from("<Q", raw, 16)
        return raw[:16] + struct.pack("<Q", count + fields) + content + raw[24:]

    return change


def of_array(item: int, count: int, items: bytes) -> bytes:
    """A field x that is an array."""
    return struct.pack("<Q", 1) + b"x" + struct.pack("<IIQ", 9, item, count) + items


def more_tensors(raw: bytearray, reader: GGUFReader) -> bytes:
    """A fifth of a million tensors of one number each before the others."""
    count, more = len(reader.tensors), 200_000
    struct.pack_into("<Q", raw, 8, count + more)
    start = reader.tensors[0].field.offset
    one = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1, 0, 0)
    return raw[:start] + one * more + raw[start:]


def a_part(raw: bytearray, reader: GGUFReader) -> bytes:
    """The first of two files: it has the tensors of some layers."""
    field("llama.block_count", 4, "<I", 28)(raw, reader)
    (count,) = struct.unpack_from("<Q", raw, 16)
    more = struct.pack("<Q", 11) + b"split.count" + struct.pack("<IH", 2, 2)
    filler = struct.pack("<Q", 1) + b"y" + struct.pack("<IQ", 8, 0)
    missing = -len(more + filler) % 32
    filler = struct.pack("<Q", 1) + b"y" + struct.pack("<IQ", 8, missing) + b"z" * missing
    return raw[:16] + struct.pack("<Q", count + 2) + more + filler + raw[24:]


CASES: list[tuple[Change, str]] = [
    (put(8, "<Q", 2**63), "bytes at"),
    (put(16, "<Q", 2**64 - 1), "bytes at"),
    (field("tokenizer.ggml.token_type", 8, "<Q", HUGE), "bytes at"),
    (field("tokenizer.ggml.tokens", 8, "<Q", HUGE), "bytes at"),
    (field("tokenizer.ggml.merges", 4, "<I", 12), "bytes at"),
    (field("general.architecture", 0, "<I", 9), "bytes at|no type"),
    (field("general.architecture", 0, "<I", 77), "no type of value has the number 77"),
    (field("general.architecture", 4, "<Q", HUGE), "bytes at"),
    (field("llama.block_count", 4, "<I", 2**31 - 1), r"block_count is 2,147,483,647, .* of 2"),
    (field("llama.block_count", 4, "<I", 1), r"block_count is 1, .* of 2"),
    (field("llama.block_count", 4, "<I", 0), r"block_count is 0, .* of 2"),
    (tensor(0, 0, "<Q", HUGE), "bytes at"),
    (tensor(0, 2, "<I", 2**32 - 1), "dimensions"),
    (tensor(0, 2, "<I", 0), "dimensions"),
    (tensor(0, 3, "<Q", 2**63), "bytes of its own"),
    (tensor(0, 3, "<Q", 2**62), "bytes of its own"),
    (tensor(0, 4, "<I", 77), "77 is not a valid"),
    (tensor(3, 5, "<Q", 2**64 - 32), "bytes of its own"),
    (tensor(3, 5, "<Q", 0), "bytes of its own"),
    (tensor(3, 5, "<Q", 7), "bytes of its own"),
    (nested(5), "arrays within each other"),
    (nested(100_000), "arrays within each other"),
    (
        more_fields(1, of_array(9, 2**20, struct.pack("<IQ", 0, 0) * 2**20)),
        "more than 1,024 arrays within arrays",
    ),
    (
        more_fields(
            1,
            of_array(
                9,
                2,
                struct.pack("<IQ", 9, 600) * 1
                + struct.pack("<IQ", 0, 0) * 600
                + struct.pack("<IQ", 9, 600)
                + struct.pack("<IQ", 0, 0) * 600,
            ),
        ),
        "more than 1,024 arrays within arrays",
    ),
    (more_fields(1, of_array(8, 2**22, bytes(2**25))), "more than 2,097,152 values"),
    (more_fields(1, of_array(0, 2**22, bytes(2**22))), "more than 2,097,152 values"),
    (
        more_fields(20_000, (struct.pack("<Q", 1) + b"x" + struct.pack("<IB", 0, 0)) * 20_000),
        "more than 16,384 fields",
    ),
    (more_tensors, "more than 131,072 tensors"),
]


@pytest.mark.parametrize(("change", "words"), CASES)
def test_what_cannot_be_is_one_line(good: Path, tmp_path: Path, change: Change, words: str) -> None:
    """Some went on until the memory was used up; a model of half the layers was written."""
    raw = bytearray(good.read_bytes())
    file = tmp_path / "bad.gguf"
    file.write_bytes(change(raw, GGUFReader(good)) or raw)
    with pytest.raises(InvalidInputError, match=words) as caught:
        convert_gguf(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [nested(2), field("llama.context_length", 4, "<I", 0), a_part])
def test_an_odd_header_that_can_be_passes(good: Path, tmp_path: Path, change: Change) -> None:
    raw = bytearray(good.read_bytes())
    file = tmp_path / "odd.gguf"
    changed = bytes(change(raw, GGUFReader(good)) or raw)
    ends = len(changed) - len(raw)
    file.write_bytes(changed + bytes(-ends % 32) if ends else changed)
    check_header(file)


def test_weights_that_are_no_numbers_are_named(good: Path, tmp_path: Path) -> None:
    raw = bytearray(good.read_bytes())
    first = GGUFReader(good).tensors[0]
    struct.pack_into("<e", raw, int(first.data_offset), float("nan"))
    file = tmp_path / "nan.gguf"
    file.write_bytes(raw)
    with pytest.raises(InvalidInputError, match=r"embed_tokens\.weight holds weights that are no"):
        convert_gguf(file, tmp_path / "out")
