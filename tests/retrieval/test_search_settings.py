"""Settings of a search: the same from the command line, an experiment file and over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.retrieval.server.live_server import serving
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import SearchConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.signature import retriever_digests
from tspo_cli.retrieval import search_settings as known
from tspo_cli.retrieval.index.searcher import build_index, open_index
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.retrieval.remote.http_client import HttpRetriever

TEXTS = [
    f"{a} {b} {c}"
    for a in ("red", "blue", "old")
    for b in ("lake", "tower", "whale")
    for c in ("one", "two")
]
QUERIES = ["old whale", "a red tower", "lake two"]


@pytest.fixture(scope="module")
def index(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    corpus = folder / "corpus.jsonl"
    corpus.write_text(
        "".join(
            json.dumps({"id": f"p{i}", "contents": text}) + "\n" for i, text in enumerate(TEXTS)
        )
    )
    build_index(corpus, folder / "index", kind="hybrid", encoder=tiny_encoder)
    return folder / "index"


def _from_experiment(index: Path, *settings: str) -> Any:
    return open_retriever(load_config([], [f"retriever.index={index}", *settings]).retriever)


def test_an_experiment_file_knows_every_search_setting() -> None:
    assert set(SearchConfig.model_fields) == set(known.SEARCH_KEYS)
    choices = {
        "dtype": known.DTYPES,
        "backend": known.BACKENDS,
        "first_pass": known.FIRST_PASSES,
        "encoder_backend": known.ENCODER_BACKENDS,
        "ties": known.TIES,
    }
    for name, values in choices.items():
        assert SearchConfig.model_json_schema()["properties"][name]["enum"] == ["", *values]


def test_experiment_command_and_server_search_alike(index: Path) -> None:
    wanted = {"rrf_constant": 1, "depth": 4}
    here = open_index(index, {name: str(value) for name, value in wanted.items()})
    expected = here.search(QUERIES, 3)
    assert expected != open_index(index).search(QUERIES, 3)
    own = _from_experiment(index, "retriever.search.rrf_constant=1", "retriever.search.depth=4")
    assert own.search(QUERIES, 3) == expected
    digests = retriever_digests(own, load_config([]))
    assert "search" not in retriever_digests(open_index(index), load_config([]))
    with serving(here) as url:
        assert httpx.get(f"{url}/healthz", trust_env=False).json()["search"] == wanted
        remote = HttpRetriever([url], timeout=20, retries=0)
        assert remote.search(QUERIES, 3) == expected
        assert retriever_digests(remote, load_config([])) == {
            key: digests[key] for key in ("index", "search")
        }


def test_replicas_must_search_alike(index: Path) -> None:
    with serving(open_index(index)) as plain, serving(open_index(index, {"batch_size": 8})) as slow:
        HttpRetriever([plain, slow], timeout=20, retries=0).check()
        with (
            serving(open_index(index, {"depth": 5})) as other,
            pytest.raises(InvalidInputError, match=r"search one index differently: .*\"depth\": 5"),
        ):
            HttpRetriever([plain, other], timeout=20, retries=0).check()


def test_what_does_not_fit_is_named(index: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"nprob: unknown key; did you mean retriever.search.nprobe\?"
    ):
        load_config([], ["retriever.search.nprob=3"])
    with pytest.raises(
        InvalidInputError, match=r"retriever.search.nprobe: expected an integer >= 0, got -1"
    ):
        load_config([], ["retriever.search.nprobe=-1"])
    with pytest.raises(InvalidInputError, match="tspo serve --set"):
        open_retriever(
            load_config(
                [], ["retriever.url=http://127.0.0.1:9", "retriever.search.nprobe=3"]
            ).retriever
        )
    with pytest.raises(InvalidInputError, match="first_pass: int8 needs"):
        _from_experiment(index, "retriever.search.first_pass=int8")
