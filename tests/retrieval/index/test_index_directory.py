"""The index directory: same bytes, never half written, never over something else."""

from __future__ import annotations

import hashlib
import json
import pickletools
from pathlib import Path

import pytest

from tspo_cli.disk import replace_directory
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.index import searcher
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.index.verify_index import verify_index
from tspo_cli.retrieval.manifest import read_manifest
from tspo_cli.retrieval.passages import PassageStore
from tspo_cli.retrieval.types import Hit


def _write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    records: list[dict[str, object]] = [
        {"id": "a", "contents": '"Čeština"\nA Slavic language — 日本語 🎈'},
        {"id": 7, "title": "Lake", "text": "Water\nwith a second line"},
        {"id": "c", "title": "", "text": "no title, lone ? surrogate"},
    ]
    return _write(tmp_path / "corpus.jsonl", records)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_corpus_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    build_index(corpus, tmp_path / "one")
    build_index(corpus, tmp_path / "two")
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "one", "two"]


def test_ids_and_contents_come_back_as_given(corpus: Path, tmp_path: Path) -> None:
    manifest = build_index(corpus, tmp_path / "index")
    searcher = open_index(tmp_path / "index")
    assert searcher.manifest == manifest
    assert searcher.blocking is False
    hits = [result.hits[0] for result in searcher.search(["slavic", "second", "surrogate"], 2)]
    assert [(hit.id, hit.title, hit.text) for hit in hits] == [
        ("a", "Čeština", "A Slavic language — 日本語 🎈"),
        ("7", "Lake", "Water\nwith a second line"),
        ("c", "", "no title, lone ? surrogate"),
    ]
    assert all(isinstance(hit, Hit) and type(hit.score) is float for hit in hits)


def test_the_manifest_says_what_was_built(corpus: Path, tmp_path: Path) -> None:
    manifest = build_index(corpus, tmp_path / "index", settings={"k1": "0.9", "stop_words": "none"})
    assert manifest["kind"] == "bm25"
    assert manifest["passages"] == 3
    assert manifest["parameters"] == {
        "method": "lucene",
        "k1": 0.9,
        "b": 0.75,
        "stop_words": "none",
        "stemmer": "none",
    }
    assert manifest["corpus"]["path"] == str(corpus)
    assert set(manifest["files"]) == {path.name for path in (tmp_path / "index").iterdir()} - {
        "manifest.json"
    }


def test_the_store_is_bounded(corpus: Path, tmp_path: Path) -> None:
    build_index(corpus, tmp_path / "index")
    store = PassageStore(tmp_path / "index")
    assert len(store) == 3
    for position in (-1, 3):
        with pytest.raises(IndexError):
            store[position]


def test_no_file_of_an_index_is_a_pickle(corpus: Path, tmp_path: Path) -> None:
    build_index(corpus, tmp_path / "index")
    for content in _bytes(tmp_path / "index").values():
        with pytest.raises(ValueError):
            list(pickletools.genops(content))


def test_a_used_directory_is_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build_index(corpus, out)
    before = _bytes(out)
    with pytest.raises(InvalidInputError, match="--overwrite"):
        build_index(corpus, out)
    assert _bytes(out) == before
    build_index(corpus, out, settings={"b": "0.1"}, overwrite=True)
    assert read_manifest(out)["parameters"]["b"] == 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "index"]


def test_overwrite_never_replaces_something_else(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    for target in (other, corpus):
        with pytest.raises(InvalidInputError, match="not an index"):
            build_index(corpus, target, overwrite=True)
    assert (other / "chapter.txt").read_text() == "years of work"


def test_an_empty_directory_may_be_used(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    assert build_index(corpus, tmp_path / "index")["passages"] == 3


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "corpus.jsonl.*expected passages"),
        (
            [{"id": "a", "contents": "x y"}, {"id": "a", "contents": "z"}],
            "corpus.jsonl:2.*'a' as on line 1",
        ),
        ([{"id": "a"}], "corpus.jsonl:1.*contents"),
    ],
)
def test_a_bad_corpus_leaves_nothing_behind(
    records: list[dict[str, object]], message: str, tmp_path: Path
) -> None:
    corpus = _write(tmp_path / "corpus.jsonl", records)
    with pytest.raises(InvalidInputError, match=message):
        build_index(corpus, tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_failed_overwrite_keeps_the_old_index(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build_index(corpus, out)
    with pytest.raises(InvalidInputError):
        build_index(_write(tmp_path / "bad.jsonl", [{"id": "a"}]), out, overwrite=True)
    assert verify_index(out) == {"files": 7, "corpus": "same"}


def test_a_missing_corpus_or_index_is_a_missing_resource(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no such file"):
        build_index(tmp_path / "none.jsonl", tmp_path / "index")
    with pytest.raises(MissingResourceError, match="tspo index build"):
        open_index(tmp_path / "index")
    with pytest.raises(InvalidInputError, match=r"not an index directory.*build it again"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"k1_x": 1.0}, "setting 'k1_x': unknown for this kind of index; did you mean k1?"),
        ({"k1": -1}, "setting k1: expected a number >= 0, got -1"),
        ({"method": ""}, "setting method: expected one of "),
    ],
)
def test_a_wrong_setting_of_a_manifest_names_it(
    corpus: Path, tmp_path: Path, parameters: dict[str, object], words: str
) -> None:
    out = tmp_path / "index"
    build_index(corpus, out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["parameters"] |= parameters
    (out / "manifest.json").write_text(json.dumps(manifest))
    for read in (open_index, verify_index):
        with pytest.raises(InvalidInputError) as refused:
            read(out)
        assert str(refused.value).startswith(f"{out / 'manifest.json'}: {words}")
        assert str(refused.value).endswith("; build the index again")


@pytest.mark.parametrize("text", ["", "{", "\0", '{"format": "tspo-index", "version": 1}'])
def test_a_damaged_manifest_says_what_to_do(tmp_path: Path, text: str) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(text)
    with pytest.raises(InvalidInputError) as refused:
        open_index(tmp_path)
    assert str(refused.value).startswith(f"{manifest}: ")
    assert str(refused.value).endswith("; build the index again")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"stopwords": "none"}}, "did you mean stop_words"),
        ({"settings": {"batch_size": "3"}}, "known are method, k1"),
        ({"settings": {"k1": "high"}}, "k1: expected a number >= 0, got 'high'"),
        ({"settings": {"b": "1.5"}}, "b: expected a number >= 0 and <= 1"),
        ({"settings": {"k1": "nan"}}, "k1: expected a number >= 0"),
        ({"settings": {"method": "bm42"}}, "method: expected one of lucene"),
        ({"kind": "bm52"}, "did you mean bm25"),
        ({"encoder": "e5"}, "uses no encoder"),
        ({"kind": "dense"}, "--encoder"),
        (
            {"kind": "dense", "encoder": "x", "settings": {"max_length": "0"}},
            "max_length: expected an integer >= 1",
        ),
    ],
)
def test_wrong_options_are_named(
    corpus: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build_index(corpus, tmp_path / "index", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "index").exists()


def test_a_damaged_index_is_found(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build_index(corpus, out)
    assert verify_index(out) == {"files": 7, "corpus": "same"}
    passages = out / "passages.jsonl"
    passages.write_bytes(passages.read_bytes().replace(b"Slavic", b"slavic"))
    with pytest.raises(InvalidInputError, match=r"passages\.jsonl: expected sha256"):
        verify_index(out)
    passages.write_bytes(b"cut")
    with pytest.raises(InvalidInputError, match=r"passages\.jsonl: expected .* bytes, got 3 bytes"):
        open_index(out)
    passages.unlink()
    with pytest.raises(InvalidInputError, match="got no such file"):
        open_index(out)


def test_an_empty_file_of_passages_that_the_manifest_agrees_with_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    build_index(corpus, out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["passages.jsonl"] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "passages.jsonl").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"passages\.jsonl: expected \d+ bytes, got 0"):
        open_index(out)


def test_a_changed_corpus_is_found_and_an_absent_one_is_not_an_error(
    corpus: Path, tmp_path: Path
) -> None:
    build_index(corpus, tmp_path / "index")
    with open(corpus, "a") as handle:
        handle.write('{"id": "new", "contents": "more"}\n')
    with pytest.raises(InvalidInputError, match="the corpus changed"):
        verify_index(tmp_path / "index")
    corpus.unlink()
    assert verify_index(tmp_path / "index")["corpus"] == "absent"


def test_another_format_version_is_refused(corpus: Path, tmp_path: Path) -> None:
    manifest = build_index(corpus, tmp_path / "index")
    (tmp_path / "index" / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(InvalidInputError, match="expected index format 1, got 99"):
        open_index(tmp_path / "index")


def test_k_must_be_positive(corpus: Path, tmp_path: Path) -> None:
    build_index(corpus, tmp_path / "index")
    with pytest.raises(InvalidInputError, match="k: expected 1 or more"):
        open_index(tmp_path / "index").search(["lake"], 0)


@pytest.mark.parametrize("moment", ["check_files", "open_passages", "_ranker"])
@pytest.mark.parametrize("times", [1, 99])
def test_an_index_that_is_replaced_meanwhile_is_opened_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, times: int
) -> None:
    """Of two indexes no half is used."""
    other = _write(tmp_path / "other.jsonl", [{"id": "b", "contents": "Another lake"}])
    place, left = tmp_path / "index", times
    build_index(corpus, place)
    usual = getattr(searcher, moment)

    def replaced(*arguments: object) -> object:
        nonlocal left
        if left:
            left -= 1
            build_index(other, tmp_path / "new")
            replace_directory(tmp_path / "new", place)
        return usual(*arguments)

    monkeypatch.setattr(searcher, moment, replaced)
    if times > 1:
        with pytest.raises(InvalidInputError, match="index: was replaced while it was read"):
            open_index(place)
        return
    opened = open_index(place)
    assert opened.manifest == read_manifest(place)
    assert [hit.id for hit in opened.search(["lake"], 2)[0].hits] == ["b"]
