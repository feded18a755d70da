"""Foreign indexes taken over, BM25 and dense together, and a cross-encoder on top."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from tests.conftest import run_tspo
from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.dense.encoder import Encoder, budget_batches
from tspo_cli.retrieval.dense.presets import resolve_preset
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.hybrid import fuse
from tspo_cli.retrieval.index.import_vectors import import_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.index.verify_index import verify_index

WORDS = ("river", "violin", "planet", "bread", "castle", "football", "whale", "engine")
TEXTS = [f'"{first}"\n{first} and {second}' for first in WORDS for second in WORDS]
E5 = {"query_prefix": "query: ", "passage_prefix": "passage: ", "pooling": "mean"}


@pytest.fixture(scope="module")
def pair(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """As Search-R1 leaves them: a flat FAISS file, and a corpus whose lines are in the order of its
    rows.
    """
    folder = tmp_path_factory.mktemp("pair")
    corpus, vectors = folder / "wiki-18.jsonl", folder / "e5_Flat.index"
    corpus.write_text(
        "".join(json.dumps({"id": str(i), "contents": text}) + "\n" for i, text in enumerate(TEXTS))
    )
    index = faiss.IndexFlatIP(384)
    index.add(Encoder(minilm, DenseSettings(**E5)).encode_passages(TEXTS))  # type: ignore[arg-type]
    faiss.write_index(index, str(vectors))
    return vectors, corpus


def test_a_search_r1_pair_is_used_where_it_lies(
    pair: tuple[Path, Path], minilm: str, tmp_path: Path
) -> None:
    vectors, corpus = pair
    build_index(corpus, tmp_path / "built", kind="dense", encoder=minilm, settings={"preset": "e5"})
    import_index([vectors], corpus, tmp_path / "taken", encoder=minilm, settings={"preset": "e5"})
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == [
        "manifest.json",
        "offsets.npy",
    ]
    queries = ["a musical instrument", "castle and bread"]
    built, taken = (open_index(tmp_path / name).search(queries, 5) for name in ("built", "taken"))
    assert [[hit.id for hit in result.hits] for result in built] == [
        [hit.id for hit in result.hits] for result in taken
    ]
    assert verify_index(tmp_path / "taken") == {"files": 3, "corpus": "same"}


def test_pieces_and_gzip_are_taken_without_a_cat(
    pair: tuple[Path, Path], minilm: str, tmp_path: Path
) -> None:
    vectors, corpus = pair
    raw = vectors.read_bytes()
    for name, part in (("part_2", raw[:50_001]), ("part_10", raw[50_001:])):
        (tmp_path / name).write_bytes(part)
    packed = tmp_path / "wiki-18.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    done = run_tspo(
        "index",
        "import",
        tmp_path / "part_10",
        tmp_path / "part_2",
        "--corpus",
        packed,
        "--encoder",
        minilm,
        "--set",
        "preset=e5",
        "--out",
        tmp_path / "index",
    )
    assert done.code == 0, done.err
    hits = open_index(tmp_path / "index").search(["castle and bread"], 1)[0].hits
    assert hits[0].contents == '"castle"\ncastle and bread'
    (tmp_path / "part_10").write_bytes(raw[50_001:-4])
    with pytest.raises(InvalidInputError, match="part_10: expected"):
        open_index(tmp_path / "index")


def test_what_does_not_belong_together_is_refused(
    pair: tuple[Path, Path], minilm: str, tiny_encoder: str, tmp_path: Path
) -> None:
    vectors, corpus = pair
    lines = corpus.read_text().splitlines(keepends=True)
    out = tmp_path / "index"

    def fails(name: str, text: str, message: str, encoder: str = minilm) -> None:
        other = tmp_path / name
        other.write_text(text)
        with pytest.raises(InvalidInputError, match=message):
            import_index([vectors], other, out, encoder=encoder, settings={"preset": "e5"})
        assert not out.exists()

    fails("shuffled.jsonl", "".join(reversed(lines)), "is not the vector of line")
    # A line lost near the end and another one added: most rows still have their passages.
    fails(
        "shifted.jsonl",
        "".join([*lines[:-4], *lines[-3:], lines[-1].replace("63", "64")]),
        "1 of 32 rows is below",
    )
    fails("short.jsonl", "".join(lines[:-1]), "holds 64 vectors, the corpus 63 passages")
    fails(
        "broken.jsonl",
        "".join([*lines[:-1], "nonsense\n"]),
        r"broken\.jsonl:64: expected one JSON object",
    )
    fails("sound.jsonl", "".join(lines), "gives 32 dimensions, .* has 384", tiny_encoder)
    with pytest.raises(MissingResourceError, match="no such file"):
        import_index([tmp_path / "none"], corpus, out, encoder=minilm)
    (tmp_path / "text").write_text("not a FAISS file at all, but long enough to have a header" * 9)
    with pytest.raises(InvalidInputError, match="not an intact FAISS index"):
        import_index([tmp_path / "text"], corpus, out, encoder=minilm)


@pytest.mark.parametrize(
    ("factory", "first", "reason"),
    [
        ("IVF4,PQ8x4fs", 0, "it has fast-scan lists"),
        ("IDMap,Flat", 0, "not implemented"),
        ("IVF4,Flat", 7, "sequential ids"),
        ("IVF4,Flat", -7, "sequential ids"),
    ],
)
def test_an_index_that_cannot_be_compared_with_the_corpus_is_refused(
    pair: tuple[Path, Path], minilm: str, tmp_path: Path, factory: str, first: int, reason: str
) -> None:
    """FAISS raised an error of its own, or ended the process."""
    flat, corpus = faiss.read_index(str(pair[0])), pair[1]
    rows = flat.reconstruct_n(0, flat.ntotal)
    index = faiss.index_factory(384, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add_with_ids(rows, np.arange(first, first + flat.ntotal))
    faiss.write_index(index, str(tmp_path / "foreign.index"))
    with pytest.raises(InvalidInputError, match=f"cannot be read, .*{reason}.*; build the index"):
        import_index(
            [tmp_path / "foreign.index"], corpus, tmp_path / "index", encoder=minilm,
            settings={"preset": "e5"},
        )  # fmt: skip
    assert not (tmp_path / "index").exists()


def test_a_pointer_of_git_lfs_is_no_vectors(tmp_path: Path) -> None:
    pointer, corpus = tmp_path / "vectors.faiss", tmp_path / "corpus.jsonl"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    corpus.write_text('{"id": "1", "contents": "Tea"}\n')
    with pytest.raises(InvalidInputError, match="git lfs pull"):
        import_index([pointer], corpus, tmp_path / "index", encoder="none/such")


def test_fusion_adds_reciprocal_ranks_and_breaks_ties_by_position() -> None:
    first, second = [(7, 9.0), (3, 8.0), (5, 1.0)], [(3, 0.5), (7, 0.4)]
    expected = [(3, 1 / 61 + 1 / 62), (7, 1 / 61 + 1 / 62), (5, 1 / 63)]
    found = fuse([first, second], 3)
    assert [at for at, _ in found] == [at for at, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])
    assert fuse([[], []], 3) == []


def test_hybrid_finds_what_either_finds(
    pair: tuple[Path, Path], minilm: str, tmp_path: Path
) -> None:
    build_index(pair[1], tmp_path / "index", kind="hybrid", encoder=minilm)
    lexical, meaning = open_index(tmp_path / "index").search(
        ["football engine", "a musical instrument"], 4
    )
    assert lexical.hits[0].id in {"47", "61"}
    assert "violin" in meaning.hits[0].contents


def test_a_cross_encoder_orders_the_candidates(
    pair: tuple[Path, Path], minilm: str, tmp_path: Path
) -> None:
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    small = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(small).save_pretrained(tmp_path / "reranker")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "reranker")
    build_index(pair[1], tmp_path / "index")
    query = "river engine"
    before = open_index(tmp_path / "index").search([query], 20)[0].hits
    options = {"reranker": str(tmp_path / "reranker"), "rerank_depth": 20}
    after = open_index(tmp_path / "index", options).search([query, "zebra"], 5)
    scores = CrossEncoder(str(tmp_path / "reranker")).predict(
        [(query, hit.contents) for hit in before]
    )
    by_id = {hit.id: float(score) for hit, score in zip(before, scores, strict=True)}
    # By score: an untrained model gives many passages nearly the same one.
    np.testing.assert_allclose(
        [hit.score for hit in after[0].hits], sorted(by_id.values())[:-6:-1], atol=1e-5
    )
    np.testing.assert_allclose(
        [hit.score for hit in after[0].hits], [by_id[hit.id] for hit in after[0].hits], atol=1e-5
    )
    assert after[1].hits == ()
    with pytest.raises(MissingResourceError, match="no such reranker directory"):
        open_index(tmp_path / "index", {"reranker": str(tmp_path / "nowhere")})


def test_presets_fill_in_what_is_not_given() -> None:
    assert resolve_preset("intfloat/e5-base-v2", {})["passage_prefix"] == "passage: "
    assert resolve_preset("BAAI/bge-base-en-v1.5", {})["pooling"] == "cls"
    assert resolve_preset("models/free5", {}) == {"preset": "none"}
    given = resolve_preset("e5-small", {"query_prefix": "", "preset": "auto"})
    assert (given["query_prefix"], given["pooling"], given["preset"]) == ("", "mean", "e5")


def test_batches_keep_their_budget_and_lose_no_text() -> None:
    lengths = [3, 500, 7, 7, 120, 1, 64]
    batches = list(budget_batches(lengths, 128, 3, 64))
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 128
    # 40 short queries are not padded to the length of a long one.
    assert [len(batch) for batch in budget_batches([8] * 40 + [60], 16384, 64, 64)] == [2, 39]
