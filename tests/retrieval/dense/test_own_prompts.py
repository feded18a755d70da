"""Encoders that bring their own prompts and similarity: used once, recorded, announced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.dense.own_prompts import FILE_NAME
from tspo_cli.retrieval.dense.presets import resolve_preset
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.search_settings import index_settings

TEXTS = ["The heron stands in the reeds.", "A kiln burns clay.", "Reeds grow by the water."]
PASSAGES = [f'"{at}"\n{text}' for at, text in enumerate(TEXTS)]
QUESTIONS = ["where does the heron stand", "what burns clay"]
INSTRUCTION = "Instruct: Find the page that answers\nQuery:"
Make = Callable[[str, Any], str]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"id": str(at), "contents": text}) for at, text in enumerate(PASSAGES)]
    path.write_text("\n".join(lines) + "\n")
    return path


def prefixes(encoder: str, **given: object) -> tuple[object, object]:
    settings = index_settings("dense", resolve_preset(encoder, given)).dense
    assert settings is not None
    return settings.query_prefix, settings.passage_prefix


@pytest.mark.parametrize(
    ("name", "config", "query", "passage"),
    [
        # As Qwen3-Embedding, mxbai and EmbeddingGemma state them.
        ("q", {"prompts": {"query": INSTRUCTION, "document": ""}}, INSTRUCTION, ""),
        ("m", {"prompts": {"query": "Look up: ", "passage": None}}, "Look up: ", ""),
        ("g", {"prompts": {"query": "task | q: ", "document": "title | t: ", "STS": "x"}},
         "task | q: ", "title | t: "),
        # Other names for the same roles; placeholders of sentence-transformers give way.
        ("s", {"prompts": {"query": "", "document": "", "s2p_query": "S2P: ", "s2s_query": "-"}},
         "S2P: ", ""),
        ("r", {"prompts": {"Retrieval-query": "RQ ", "Retrieval_document": "RD "}}, "RQ ", "RD "),
        ("w", {"prompts": {"sts_query": "no", "web_search_query": "Web: "}}, "Web: ", ""),
        # The default prompt stands before both, if none is for retrieval.
        ("d", {"prompts": {"any": "Embed: "}, "default_prompt_name": "any"}, "Embed: ", "Embed: "),
        ("d", {"prompts": {"query": "Q: "}, "default_prompt_name": "query"}, "Q: ", ""),
        ("d", {"prompts": {"query": "Q: ", "any": "A: "}, "default_prompt_name": "any"}, "Q: ", ""),
        # Its own word counts more than the family of its name; saying nothing counts less.
        ("my-e5", {"prompts": {"query": "ask: ", "document": ""}}, "ask: ", ""),
        ("my-e5", {"prompts": {"query": "", "document": ""}}, "query: ", "passage: "),
        ("my-e5", {"prompts": {}, "default_prompt_name": None}, "query: ", "passage: "),
        ("my-e5", {"prompts": {"query": "ask: "}}, "ask: ", "passage: "),
        # A reranker's prompts are not those of an encoder.
        ("x", {"model_type": "CrossEncoder", "prompts": {"query": "rank: "}}, "", ""),
    ],
)  # fmt: skip
def test_prompts_are_those_of_the_encoder(
    own_encoder: Make, name: str, config: Any, query: str, passage: str
) -> None:
    encoder = own_encoder(name, config)
    assert prefixes(encoder) == (query, passage)
    assert prefixes(encoder, query_prefix="", passage_prefix="P ") == ("", "P ")


def test_a_preset_that_is_named_counts_more_than_the_encoders_own(own_encoder: Make) -> None:
    encoder = own_encoder("mine", {"prompts": {"query": "ask: ", "document": "read: "}})
    assert prefixes(encoder, preset="e5") == ("query: ", "passage: ")
    assert prefixes(encoder, preset="none") == ("ask: ", "read: ")


def test_families_that_share_a_word_do_not_share_an_instruction() -> None:
    asked = {
        name: resolve_preset(name, {}).get("query_prefix", "")
        for name in (
            *("a/e5-large", "a/multilingual-e5-large-instruct", "a/e5-mistral-7b"),
            *("a/bge-small-en", "a/bge-m3", "a/bge-base-zh", "a/bge-en-icl", "a/gte-base"),
        )
    }
    assert [text[:9] for text in asked.values()] == [  # type: ignore[index]
        *("query: ", "Instruct:", ""),
        *("Represent", "", "为这个句子生成表示", "", ""),
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object, got []"),
        ({"prompts": ["query: "]}, "prompts: expected an object of names and texts"),
        ({"prompts": {"query": {"en": "q: "}}}, "expected a text for 'query', got {'en'"),
        ({"prompts": {"query": "q: ", "document": 7}}, "expected a text for 'document', got 7"),
        ({"prompts": {"passage": ["p: "]}}, 'or give the text with --set passage_prefix="..."'),
        ({"prompts": {"any": "a"}, "default_prompt_name": "other"}, r"its prompts (any), got 'oth"),
        ({"prompts": {"any": "a"}, "default_prompt_name": ["any"]}, "default_prompt_name"),
        ({"similarity_fn_name": "euclidean"}, "expected cosine or dot, by which an index ranks"),
        ({"similarity_fn_name": "manhattan"}, "got 'manhattan'; to rank by cosine all the same"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_the_build(
    own_encoder: Make, corpus: Path, tmp_path: Path, config: Any, message: str
) -> None:
    encoder = own_encoder("odd", config)
    with pytest.raises(InvalidInputError) as caught:
        build_index(corpus, tmp_path / "index", kind="dense", encoder=encoder)
    assert message in str(caught.value)
    assert str(Path(encoder) / FILE_NAME) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_a_given_text_replaces_a_damaged_prompt(own_encoder: Make) -> None:
    encoder = own_encoder("odd", {"prompts": {"query": ["q: "], "document": "d: "}})
    assert prefixes(encoder, query_prefix="q: ") == ("q: ", "d: ")


def test_prompts_without_a_known_role_are_named(
    own_encoder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = own_encoder(
        "odd", {"prompts": {"sts": "Same? ", "classification": "Class: ", "query": ""}}
    )
    assert prefixes(encoder) == ("", "")
    said = capsys.readouterr().err
    assert "its prompts sts, classification are not used" in said
    assert prefixes(encoder, query_prefix="Same? ") == ("Same? ", "")
    assert "not used" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("backend", "include_prompt"), [("torch", True), ("torch", False), ("onnx", False)]
)
def test_vectors_are_those_of_sentence_transformers_with_each_prompt_once(
    own_encoder: Make, backend: str, include_prompt: bool
) -> None:
    """Its `encode_query` and `encode_document`; the default prompt never joins in."""
    if backend == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from sentence_transformers import SentenceTransformer

    encoder = own_encoder(
        "mine",
        {
            "prompts": {"query": INSTRUCTION, "document": "page: ", "noise": "zebra " * 20},
            "default_prompt_name": "noise",
        },
    )
    pooling = Path(encoder) / "1_Pooling" / "config.json"
    pooling.write_text(
        json.dumps({**json.loads(pooling.read_text()), "include_prompt": include_prompt})
    )
    given = {"encoder_backend": backend}
    settings = index_settings("dense", resolve_preset(encoder, given)).dense
    assert settings is not None
    ours, theirs = Encoder(encoder, settings), SentenceTransformer(encoder, device="cpu")
    pairs = [
        (ours.encode_queries(QUESTIONS), theirs.encode_query(QUESTIONS, normalize_embeddings=True)),
        (ours.encode_passages(TEXTS), theirs.encode_document(TEXTS, normalize_embeddings=True)),
    ]
    for mine, other in pairs:
        np.testing.assert_allclose(mine, other, atol=1e-5 if backend == "torch" else 1e-3)


def test_the_build_says_and_records_them_and_a_search_uses_the_recorded_ones(
    own_encoder: Make, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = own_encoder("mine", {"prompts": {"query": "Q: ", "document": "D: "}})
    out = tmp_path / "index"
    manifest = build_index(corpus, out, kind="dense", encoder=encoder)
    line = 'encoder mine: "Q: " before queries (its own), "D: " before passages (its own)\n'
    assert capsys.readouterr().err.count(line) == 1
    recorded = manifest["parameters"]
    assert (recorded["query_prefix"], recorded["passage_prefix"]) == ("Q: ", "D: ")
    model = Encoder(encoder, DenseSettings())
    scores = (
        model.encode(["Q: " + text for text in QUESTIONS])
        @ model.encode(["D: " + text for text in PASSAGES]).T
    )
    for row, found in zip(scores, open_index(out).search(QUESTIONS, 3), strict=True):
        assert [hit.score for hit in found.hits] == pytest.approx(sorted(row)[::-1], abs=1e-5)
    # An index that was built before prompts were read keeps its own: none.
    old = build_index(
        corpus, tmp_path / "old", kind="dense", encoder=encoder,
        settings={"query_prefix": "", "passage_prefix": ""},
    )  # fmt: skip
    assert old["parameters"]["query_prefix"] == ""
    (plain,) = open_index(tmp_path / "old").search(QUESTIONS[:1], 1)
    expected = float((model.encode(QUESTIONS[:1]) @ model.encode(PASSAGES).T).max())
    assert plain.hits[0].score == pytest.approx(expected, abs=1e-5)


def test_dot_products_are_ranked_as_dot_products(
    own_encoder: Make, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = own_encoder("mine-e5", {"similarity_fn_name": "dot", "prompts": {}})
    manifest = build_index(corpus, tmp_path / "index", kind="dense", encoder=encoder)
    assert manifest["parameters"]["normalize"] is False
    assert "vectors compared by dot product (its own)" in capsys.readouterr().err
    model = Encoder(encoder, DenseSettings(normalize=False))
    scores = (
        model.encode([f"query: {QUESTIONS[0]}"])
        @ model.encode([f"passage: {text}" for text in PASSAGES]).T
    )
    (found,) = open_index(tmp_path / "index").search(QUESTIONS[:1], 3)
    assert [hit.score for hit in found.hits] == pytest.approx(sorted(scores[0])[::-1], rel=1e-5)
    given = index_settings("dense", resolve_preset(encoder, {"normalize": "true"})).dense
    assert given is not None
    assert given.normalize
    by_distance = own_encoder("other", {"similarity_fn_name": "euclidean"})
    assert resolve_preset(by_distance, {"normalize": "true"})["normalize"] == "true"
