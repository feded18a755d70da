"""Damaged and foreign files, and queries that no one should send: one clear error, never a wrong
passage.
"""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest

from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.manifest import file_facts

TEXTS = [
    f"{a} {b} {c}"
    for a in ("red", "blue", "old")
    for b in ("lake", "tower", "whale")
    for c in ("one", "two")
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "corpus.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": f"p{i}", "contents": f'"T{i}"\n{t}'}) + "\n"
            for i, t in enumerate(TEXTS)
        )
    )
    return path


@pytest.fixture(scope="module")
def hybrid(corpus: Path, tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hybrid") / "index"
    build_index(
        corpus,
        out,
        kind="hybrid",
        encoder=tiny_encoder,
        settings={"factory": "SQ8", "rescore": "float16"},
    )
    return out


def test_a_flipped_byte_anywhere_is_found(hybrid: Path, corpus: Path) -> None:
    draw = random.Random(1)
    names = sorted(path.name for path in hybrid.iterdir())
    for name in names:
        raw = (hybrid / name).read_bytes()
        for _ in range(3):
            at = draw.randrange(len(raw))
            (hybrid / name).write_bytes(
                raw[:at] + bytes([raw[at] ^ (1 << draw.randrange(8))]) + raw[at + 1 :]
            )
            if name != "manifest.json":
                with pytest.raises(InvalidInputError, match=f"{name}: expected sha256"):
                    open_index(hybrid)
                continue
            # Only the manifest has bytes that may change without harm, such as the corpus's path.
            with suppress(TspoError):
                for hit in open_index(hybrid).search(["blue tower two"], 3)[0].hits:
                    assert hit.contents.endswith(TEXTS[int(hit.id[1:])])
        (hybrid / name).write_bytes(raw)
    assert open_index(hybrid).search(["blue tower two"], 3)[0].hits


def test_a_passage_that_is_damaged_after_opening_fails_alone(corpus: Path, tmp_path: Path) -> None:
    build_index(corpus, tmp_path / "index")
    searcher = open_index(tmp_path / "index")
    path = tmp_path / "index" / "passages.jsonl"
    raw = path.read_bytes()
    with open(path, "r+b") as handle:  # in place: the searcher has mapped this file
        handle.seek(raw.index(b"blue tower two"))
        handle.write(b"grey")
    bad, good = searcher.search(["blue tower two", "red lake one"], 1)
    assert bad.hits == ()
    assert bad.error is not None
    assert "not the one that was indexed" in bad.error
    assert good.hits[0].contents.endswith("red lake one")


def test_files_of_another_corpus_are_refused(
    hybrid: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "x", "contents": "\\"X\\"\\nred whale"}\n')
    for kind, names in (
        ("dense", ["vectors.faiss"]),
        ("bm25", ["data.csc.index.npy", "params.index.json"]),
    ):
        folder = tmp_path / kind
        options = {"kind": kind, "encoder": tiny_encoder if kind == "dense" else ""}
        build_index(other, folder, **options)  # type: ignore[arg-type]
        mixed = tmp_path / f"{kind}-mixed"
        mixed.mkdir()
        for path in hybrid.iterdir():
            (mixed / path.name).write_bytes(
                (folder if path.name in names else hybrid).joinpath(path.name).read_bytes()
            )
        manifest = json.loads((mixed / "manifest.json").read_text())
        manifest["files"] |= {name: file_facts(mixed / name) for name in names}
        if kind == "dense":
            manifest["files"].pop("rescore.npy")
        (mixed / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(
            InvalidInputError, match=r"another corpus|postings are cut|was built over"
        ):
            open_index(mixed)


def test_another_encoder_of_the_same_size_is_refused(
    corpus: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    import shutil

    encoder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, encoder)
    build_index(corpus, tmp_path / "index", kind="dense", encoder=str(encoder))
    weights = encoder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(InvalidInputError, match="not those that built the index"):
        open_index(tmp_path / "index")


@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_strange_queries_get_an_answer_or_an_error_of_their_own(
    kind: str, corpus: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    encoder = "" if kind == "bm25" else tiny_encoder
    build_index(corpus, tmp_path / "index", kind=kind, encoder=encoder)
    searcher = open_index(tmp_path / "index")
    strange = [
        "",
        " \n",
        "x" * 2**20,
        "blue \ud800 tower",
        "blue \x00 tower",
        "\ufffe\U0010ffff",
        "blue tower two",
    ]
    results = searcher.search(strange, 1000)
    assert len(results) == len(strange)
    assert results[2].error == "query: expected at most 32768 characters, got 1048576"
    assert [result.error for result in results[:2]] == ["query: empty"] * 2
    assert all(not result.hits for result in results[:3])
    assert results[6] == searcher.search(["blue tower two"], 1000)[0]
    assert results[3].error is None
    ids = [hit.id for hit in results[6].hits]
    assert len(set(ids)) == len(ids) <= len(TEXTS)
    assert kind == "bm25" or len(ids) == len(TEXTS)


def test_settings_of_the_build_cannot_be_changed_by_a_search(hybrid: Path) -> None:
    with pytest.raises(InvalidInputError, match="'k1': fixed when the index was built"):
        open_index(hybrid, {"k1": "2"})
    with pytest.raises(InvalidInputError, match="did you mean candidates"):
        open_index(hybrid, {"candidate": "2"})
    assert (
        open_index(hybrid, {"candidates": "2", "rrf_constant": 1}).search(["old whale"], 2)[0].hits
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"files": None}, "files: Input should be a valid dictionary"),
        ({"parameters": []}, "parameters: Input should be a valid dictionary"),
        ({"passages": "12"}, "passages: Input should be a valid integer"),
        ({"corpus": {"path": "x"}}, "corpus.sha256: Field required"),
        ({"files": {"x": {}}}, "files.x.bytes: Field required"),
        ({"files": {}}, "files has no size and digest of offsets.npy"),
        ({"lines": "../x.jsonl"}, "files has no size and digest of ../x.jsonl"),
        ({"vectors": []}, "vectors: List should have at least 1 item"),
        ({"passages": True}, "passages: Input should be a valid integer"),
        ({"version": None}, "expected index format 1, got None"),
        ({"kind": "zzz"}, "expected one of bm25, dense, hybrid"),
        ({"kind": "bm25"}, "unknown for this kind of index"),
    ],
)
def test_a_manifest_with_a_part_missing_or_of_another_kind_is_refused(
    damage: dict[str, object], message: str, hybrid: Path, tmp_path: Path
) -> None:
    for path in hybrid.iterdir():
        (tmp_path / path.name).hardlink_to(path)
    manifest = json.loads((hybrid / "manifest.json").read_text()) | damage
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInputError, match=message):
        open_index(tmp_path)
