"""The Qdrant adapter on Qdrant's own local engine, directly and through its REST client and our
commands.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from tests.conftest import Finished, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import QdrantConfig
from tspo_cli.config.sections.index_settings import Bm25Settings
from tspo_cli.data.readers import read_passages
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.retrieval.passages import PassageStore
from tspo_cli.retrieval.remote.qdrant import QdrantRetriever, open_client
from tspo_cli.retrieval.remote.qdrant_upload import push_dense, push_sparse
from tspo_cli.retrieval.server.listen import listen
from tspo_cli.training.problems import refuse_problems

qdrant_client = pytest.importorskip("qdrant_client")
models = qdrant_client.models

TEXTS = [
    "The lake lies in the north, by a hill.",
    "A town by the lake; the lake has a bridge.",
    "Stone bridge over the river.",
    "Südstadt has a tower and a town hall, naïve 日本語 lake.",
    "the of and",
    "Tower, tower, tower: a long text about towers and the river beneath the old stone bridge in "
    "town.",
]
QUERIES = ["lake bridge", "tower", "river stone town", "tower tower lake", "zebra", "the"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    records = [{"id": f"p{at}", "contents": f'"T{at}"\n{text}'} for at, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


Stored = Callable[[Path], PassageStore]


def _ignore(count: int) -> None:
    pass


def test_sparse_vectors_are_our_bm25(corpus: Path, tmp_path: Path, stored: Stored) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    assert push_sparse(client, "c", stored(corpus), Bm25Settings(), _ignore) == len(TEXTS)
    retriever = QdrantRetriever(
        client, QdrantConfig(url="local", collection="c", kind="sparse"), None
    )
    retriever.check()
    build_index(corpus, tmp_path / "index")
    expected = open_index(tmp_path / "index").search(QUERIES, 4)
    for query, ours, theirs in zip(QUERIES, retriever.search(QUERIES, 4), expected, strict=True):
        assert ours.error is None
        assert [(hit.id, hit.contents) for hit in ours.hits] == [
            (hit.id, hit.contents) for hit in theirs.hits
        ], query
        assert [hit.score for hit in ours.hits] == pytest.approx(
            [hit.score for hit in theirs.hits], abs=1e-4
        )
    assert retriever.search(["", "lake \ud800"], 1)[0].error == "query: empty"
    assert retriever.search(["", "lake \ud800"], 1)[1].hits[0].id == "p1"


def test_sparse_vectors_are_our_bm25_on_real_questions(
    real_data: Path, tmp_path: Path, stored: Stored
) -> None:
    from itertools import islice

    from tspo_cli.data.readers import read_questions

    few = tmp_path / "few.jsonl"
    passages = list(islice(read_passages(real_data / "bamboogle" / "corpus.jsonl.gz"), 600))
    few.write_text(
        "".join(json.dumps({"id": p.id, "contents": p.contents}) + "\n" for p in passages)
    )
    questions = [
        question.question
        for question in read_questions(real_data / "bamboogle" / "questions.jsonl.gz")
    ][:20]
    client = qdrant_client.QdrantClient(":memory:")
    push_sparse(client, "c", stored(few), Bm25Settings(), _ignore)
    retriever = QdrantRetriever(
        client, QdrantConfig(url="local", collection="c", kind="sparse"), None
    )
    build_index(few, tmp_path / "index")
    ours = retriever.search(questions, 5)
    theirs = open_index(tmp_path / "index").search(questions, 5)
    assert [[hit.id for hit in result.hits] for result in ours] == [
        [hit.id for hit in result.hits] for result in theirs
    ]


def _letters(texts: list[str]) -> Any:
    """A stand-in for an encoder: unit vectors of letter counts."""
    counts = (
        np.array(
            [[text.lower().count(chr(97 + at)) for at in range(26)] for text in texts],
            dtype=np.float32,
        )
        + 0.1
    )
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def _after(prefix: str) -> Callable[[list[str]], Any]:
    """The stand-in, with a prefix of its own."""
    return lambda texts: _letters([prefix + text for text in texts])


def test_dense_vectors_give_the_nearest_passages(corpus: Path, stored: Stored) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    assert push_dense(client, "c", stored(corpus), _after("passage: "), _ignore) == len(TEXTS)
    config = QdrantConfig(url="local", collection="c", encoder="letters", exact=True)
    retriever = QdrantRetriever(client, config, _after("query: "))
    retriever.check()
    contents = [passage.contents for passage in read_passages(corpus)]
    scores = (
        _letters([f"query: {query}" for query in QUERIES])
        @ _letters([f"passage: {c}" for c in contents]).T
    )
    for result, row in zip(retriever.search(QUERIES, 3), scores, strict=True):
        best = np.argsort(-row, kind="stable")[:3]
        assert [hit.id for hit in result.hits] == [f"p{at}" for at in best]
        assert [hit.score for hit in result.hits] == pytest.approx(row[best].tolist(), abs=1e-5)


def test_what_does_not_fit_is_one_clear_error(corpus: Path, stored: Stored) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    push_dense(client, "dense", stored(corpus), _letters, _ignore)
    with pytest.raises(InvalidInputError, match="exists already"):
        push_sparse(client, "dense", stored(corpus), Bm25Settings(), _ignore)
    with pytest.raises(InvalidInputError, match="no collection 'nowhere'"):
        QdrantRetriever(client, QdrantConfig(url="local", collection="nowhere"), _letters).check()
    with pytest.raises(RemoteServiceError, match="qdrant local: "):
        QdrantRetriever(
            client, QdrantConfig(url="local", collection="dense", kind="sparse"), None
        ).check()
    with pytest.raises(InvalidInputError, match="has no text 'body'"):
        QdrantRetriever(
            client, QdrantConfig(url="local", collection="dense", contents_field="body"), _letters
        ).check()
    with pytest.raises(InvalidInputError, match="expected a URL"):
        open_client("localhost", 1)
    with pytest.raises(InvalidInputError, match=r"retriever\.qdrant\.collection"):
        refuse_problems(
            load_config(
                ["tiny/grpo"], ["retriever.qdrant.url=http://q", "model.path=m", 'data.train=["t"]']
            )
        )


@pytest.fixture
def engine_url() -> Iterator[str]:
    """Qdrant's local engine behind the four REST calls that the adapter makes."""
    engine = qdrant_client.QdrantClient(":memory:", force_disable_check_same_thread=True)
    app = FastAPI()

    @app.get("/collections/{name}/exists")
    async def exists(name: str) -> Any:
        return {"result": {"exists": engine.collection_exists(name)}, "status": "ok", "time": 0}

    @app.put("/collections/{name}")
    async def create(name: str, body: dict[str, Any]) -> Any:
        wanted = models.CreateCollection.model_validate(body)
        engine.create_collection(
            name, vectors_config=wanted.vectors or {}, sparse_vectors_config=wanted.sparse_vectors
        )
        return {"result": True, "status": "ok", "time": 0}

    @app.put("/collections/{name}/points")
    async def upsert(name: str, body: dict[str, Any]) -> Any:
        engine.upsert(name, models.PointsList.model_validate(body).points)
        return {"result": {"operation_id": 0, "status": "completed"}, "status": "ok", "time": 0}

    @app.post("/collections/{name}/points/query/batch")
    async def query(name: str, body: dict[str, Any]) -> Any:
        found = engine.query_batch_points(
            name, models.QueryRequestBatch.model_validate(body).searches
        )
        return {
            "result": [point.model_dump(mode="json") for point in found],
            "status": "ok",
            "time": 0,
        }

    bound = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_push_and_search_over_rest(corpus: Path, engine_url: str, tmp_path: Path, tspo) -> None:  # type: ignore[no-untyped-def]
    done: Finished = tspo(
        "index", "push", corpus, "--url", engine_url, "--collection", "c", "--json"
    )
    assert json.loads(done.out)["passages"] == len(TEXTS)
    settings = ["url=" + engine_url, "collection=c", "kind=sparse"]
    config = load_config([], [f"retriever.qdrant.{setting}" for setting in settings])
    retriever = open_retriever(config.retriever)
    assert retriever is not None
    build_index(corpus, tmp_path / "index")
    expected = open_index(tmp_path / "index").search(QUERIES, 4)
    ours = retriever.search(QUERIES, 4)
    assert [[hit.id for hit in result.hits] for result in ours] == [
        [hit.id for hit in result.hits] for result in expected
    ]


def test_a_collection_is_made_and_searched_as_an_index(
    engine_url: str,
    tmp_path: Path,
    own_encoder: Callable[[str, Any], str],
    capsys: pytest.CaptureFixture[str],
    tspo: Callable[..., Finished],
) -> None:
    """Several files, chunks, duplicates and the encoder's own prompts; an empty text is a text."""
    encoder = own_encoder("mine", {"prompts": {"query": "Q: ", "document": "D: "}})
    first, second = tmp_path / "a.jsonl", tmp_path / "b.tsv"
    lines = [{"id": f"p{at}", "title": "", "text": text} for at, text in enumerate(TEXTS)]
    first.write_text("".join(json.dumps(record) + "\n" for record in [*lines, lines[0]]))
    second.write_text("id\ttext\ttitle\nx\tA heron by the old bridge waits long\tHeron\n")
    chunks = {"chunk_tokens": "5", "chunk_overlap": "1"}
    sets = [word for name, value in chunks.items() for word in ("--set", f"{name}={value}")]
    target = ["--url", engine_url, "--collection", "c", "--kind", "dense", "--encoder", encoder]
    done = tspo("index", "push", first, second, *target, *sets)
    assert 'encoder mine: "D: " before passages (its own)\n' in done.err
    assert "1 passage is identical to an earlier one and was left out" in done.err
    settings = [f"url={engine_url}", "collection=c", f"encoder={encoder}", "exact=true"]
    for given, prefix, line in (
        ([], "Q: ", 'encoder mine: "Q: " before queries (its own)\n'),
        (["query_prefix="], "", "encoder mine: nothing before queries (given)\n"),
        (["query_prefix=ask: "], "ask: ", 'encoder mine: "ask: " before queries (given)\n'),
    ):
        build_index(
            [first, second], tmp_path / "index", kind="dense", encoder=encoder, overwrite=True,
            settings={**chunks, "query_prefix": prefix},
        )  # fmt: skip
        index = open_index(tmp_path / "index")
        assert f"c: {len(index)} passages" in done.out
        capsys.readouterr()
        retriever = open_retriever(
            load_config([], [f"retriever.qdrant.{text}" for text in [*settings, *given]]).retriever
        )
        assert line in capsys.readouterr().err
        assert retriever is not None
        described = retriever.describe()
        assert described.search == ({"query_prefix": prefix} if prefix else {})
        assert described.encoder == "mine"
        found = zip(retriever.search(QUERIES, 4), index.search(QUERIES, 4), strict=True)
        for ours, theirs in found:
            assert [hit.score for hit in ours.hits] == pytest.approx(
                [hit.score for hit in theirs.hits], abs=1e-5
            )
            assert ours.hits[0].id == theirs.hits[0].id
            assert all("#" in hit.id or hit.id in ("p2", "p4") for hit in ours.hits)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "factory=HNSW32"], "setting 'factory': unknown for this kind of index"),
        (
            ["--set", "stemmer=porter"],
            "setting 'stemmer': not for a sparse collection; known",
        ),
        (["--set", "chunk_overlap=9"], "setting chunk_overlap: expected less than chunk_tokens"),
        (["--kind", "dense", "--encoder", "e", "--set", "pooling=cls"], "not for a dense coll"),
        (["--kind", "dense", "--encoder", "e", "--set", "passage_prefx=p"], "did you mean passage"),
    ],
)
def test_what_a_collection_cannot_have_is_refused(
    corpus: Path, engine_url: str, words: list[str], message: str
) -> None:
    done = run_tspo("index", "push", corpus, "--url", engine_url, "--collection", "c", *words)
    assert (done.code, message in done.err) == (3, True), done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_corpus_that_is_not_there_is_named_before_the_server_is_asked(tmp_path: Path) -> None:
    done = run_tspo(
        "index", "push", tmp_path / "none.jsonl", "--url", "http://127.0.0.1:9", "--collection", "c"
    )
    assert (done.code, "none.jsonl: no such file" in done.err) == (4, True)
