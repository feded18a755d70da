"""Text without spaces and words of one letter: what BM25 makes of them, and when it says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tspo_cli.config.schema import QdrantConfig
from tspo_cli.config.sections.index_settings import Bm25Settings
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.bm25.bm25_ranker import tokens
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.passages import PassageStore

NGRAMS = Bm25Settings(tokens="ngrams")
ENGLISH = {
    "x": "Malcolm X spoke in Harlem",
    "little": "Malcolm Little and Malcolm Turnbull, Malcolm too",
    "8": "Apollo 8 flew round the Moon",
    "11": "Apollo 11 landed: Apollo Apollo",
    "c": "vitamin C prevents scurvy",
    "d": "vitamin D and vitamin K",
}
UNSPACED = {
    "zh": ("长江是亚洲最长的河流", "黄河流经九个省份", "哪条是亚洲最长的河"),
    "ja": (
        "富士山は日本で一番高い山です",
        "琵琶湖は滋賀県にあります",
        "日本で一番高い山は何ですか",
    ),
    "th": ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "เชียงใหม่อยู่ทางภาคเหนือ", "เมืองหลวงของไทยคืออะไร"),
    "lo": ("ວຽງຈັນເປັນນະຄອນຫຼວງຂອງລາວ", "ແມ່ນ້ຳຂອງໄຫຼຜ່ານ", "ນະຄອນຫຼວງແມ່ນຫຍັງ"),
    "km": ("ភ្នំពេញជារាជធានីរបស់កម្ពុជា", "បឹងទន្លេសាបធំណាស់", "រាជធានីគឺអ្វី"),
}


def _corpus(path: Path, texts: dict[str, str]) -> Path:
    rows = ({"id": name, "contents": f'"T"\n{text}'} for name, text in texts.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _best(index: Path, query: str) -> str | None:
    (result,) = open_index(index).search([query], 1)
    return result.hits[0].id if result.hits else None


@pytest.mark.parametrize("script", UNSPACED)
def test_a_question_without_spaces_finds_its_passage(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, other, question = UNSPACED[script]
    corpus = _corpus(tmp_path / "c.jsonl", {"other": other, "answer": answer})
    manifest = build_index(corpus, tmp_path / "index")
    assert manifest["parameters"]["tokens"] == "ngrams"
    assert capsys.readouterr().err.count("tokens: ngrams") == 1
    assert _best(tmp_path / "index", question) == "answer"


@pytest.mark.parametrize("script", ["zh", "ja"])
def test_an_index_of_words_says_that_it_does_not_separate_them(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, other, question = UNSPACED[script]
    corpus = _corpus(tmp_path / "c.jsonl", {"other": other, "answer": answer})
    manifest = build_index(corpus, tmp_path / "index", settings={"tokens": "words"})
    assert "tokens" not in manifest["parameters"]
    searcher = open_index(tmp_path / "index")
    assert [result.hits for result in searcher.search([question, question], 1)] == [(), ()]
    assert capsys.readouterr().err.count("--set tokens=ngrams") == 1


def test_ngrams_are_pairs_of_letters_beside_the_words_of_other_scripts() -> None:
    assert tokens("The iPhone手机的屏幕, Ｓｅｏｕｌ 山 x", NGRAMS) == [
        *("iphone", "手机", "机的", "的屏", "屏幕", "seoul", "山")
    ]
    # Half-width kana are the same letters, and a Thai sign stays on its letter.
    assert tokens("ｶﾞｽ", NGRAMS) == tokens("ガス", NGRAMS) == ["ガス"]
    assert tokens("ที่นี่", NGRAMS) == ["ที่นี่"]
    assert tokens("ที่", NGRAMS) == ["ที่"]
    assert tokens("Straße Œuvre", NGRAMS) == tokens("Straße Œuvre") == ["straße", "œuvre"]


def test_mixed_text_is_found_by_either_script(tmp_path: Path) -> None:
    texts = {
        "gpu": "英伟达发布H100显卡",
        "car": "特斯拉在上海生产Model Y",
        "en": "Nothing of the kind is here",
    }
    assert build_index(_corpus(tmp_path / "c.jsonl", texts), tmp_path / "index")["parameters"][
        "tokens"
    ] == ("ngrams")
    for query, expected in (("H100", "gpu"), ("上海", "car"), ("显卡 nvidia", "gpu")):
        assert _best(tmp_path / "index", query) == expected
    assert _best(tmp_path / "index", "nothing") == "en"


@pytest.mark.parametrize(
    ("query", "expected"), [("Malcolm X", "x"), ("Apollo 8", "8"), ("vitamin C", "c")]
)
def test_words_of_one_letter_count_where_asked(query: str, expected: str, tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "c.jsonl", ENGLISH)
    build_index(corpus, tmp_path / "one", settings={"min_word": "1"})
    assert _best(tmp_path / "one", query) == expected
    build_index(corpus, tmp_path / "two")
    assert _best(tmp_path / "two", query) != expected


def test_a_query_that_loses_all_its_words_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(_corpus(tmp_path / "c.jsonl", ENGLISH), tmp_path / "index")
    for queries, setting in (
        (["X", "C 8"], "min_word=1"),
        (["the", "of it"], "stop_words=none"),
    ):
        searcher = open_index(tmp_path / "index")
        capsys.readouterr()
        searcher.search(["zebra", "?!", *queries], 3)
        (line,) = capsys.readouterr().err.splitlines()
        assert setting in line
        assert repr(queries[0]) in line


def test_a_manifest_without_the_settings_means_words_of_two_letters(tmp_path: Path) -> None:
    manifest = build_index(_corpus(tmp_path / "c.jsonl", ENGLISH), tmp_path / "index")
    assert not manifest["parameters"].keys() & {"tokens", "min_word"}
    given = {"tokens": "words", "min_word": 2}
    assert build_index(tmp_path / "c.jsonl", tmp_path / "same", settings=given) == manifest
    with pytest.raises(InvalidInputError, match="'tokens': fixed when the index was built"):
        open_index(tmp_path / "index", {"tokens": "ngrams"})
    with pytest.raises(InvalidInputError, match="min_word: expected"):
        build_index(tmp_path / "c.jsonl", tmp_path / "x", settings={"min_word": "0"})


def test_qdrant_takes_queries_apart_as_it_took_the_passages(
    tmp_path: Path, stored: Callable[[Path], PassageStore]
) -> None:
    qdrant_client = pytest.importorskip("qdrant_client")
    from tspo_cli.errors import TspoError
    from tspo_cli.retrieval.remote.qdrant import QdrantRetriever
    from tspo_cli.retrieval.remote.qdrant_upload import push_sparse

    texts = {name: answer for name, (answer, _, _) in UNSPACED.items()}
    corpus = _corpus(tmp_path / "c.jsonl", texts)
    client = qdrant_client.QdrantClient(":memory:")
    push_sparse(client, "c", stored(corpus), Bm25Settings(), lambda count: None)
    config = QdrantConfig(url="local", collection="c", kind="sparse", tokens="ngrams")
    retriever = QdrantRetriever(client, config, None)
    retriever.check()
    results = retriever.search([question for _, _, question in UNSPACED.values()], 1)
    assert [result.hits[0].id for result in results] == list(UNSPACED)
    words = config.model_copy(update={"tokens": "words"})
    with pytest.raises(TspoError, match="bm25"):
        QdrantRetriever(client, words, None).check()
