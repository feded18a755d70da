"""Settings of a search: the same from the command line, an experiment file and over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from tests.retrieval.server.live_server import serving
from tspo_cli.commands.index import Settings as BuildSettings
from tspo_cli.commands.options import SearchSettings
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sections.index_settings import (
    INDEX_PARTS,
    SEARCH_PARTS,
    SearchConfig,
    search_time_names,
)
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.signature import retriever_digests
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.search_settings import built_settings, for_search, index_settings
from tspo_cli.runs import METRICS_NAME
from tspo_cli.training.start.inputs import TrainingInputs
from tspo_cli.training.start.same_inputs import input_digests, keep_or_compare_inputs

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


KINDS = ("bm25", "dense", "hybrid")
ALL_PARTS = [*INDEX_PARTS["hybrid"].values(), *SEARCH_PARTS["hybrid"].values()]


def test_an_experiment_file_knows_every_search_setting() -> None:
    names = {name for kind in KINDS for name in search_time_names(kind)}
    assert set(SearchConfig.model_fields) == names
    assert SearchConfig().given() == {}
    choices = SearchConfig.model_json_schema()["properties"]["backend"]["enum"]
    assert choices == ["", "faiss", "torch"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", [SearchSettings, BuildSettings])
def test_the_help_lists_every_setting(option: Any, kind: str) -> None:
    """The help is a literal text, because commands load no pydantic before they run."""
    (help_text,) = (meta.help for meta in get_args(option) if hasattr(meta, "help"))
    parts = dict(part.split(": ") for part in help_text.split(". ") if ": " in part)
    listed = {label: set(names.split(", ")) - {"all of these"} for label, names in parts.items()}
    if kind == "hybrid":
        documented = set().union(*listed.values())
    else:
        documented = listed[kind] | listed.get("All kinds", set())
    if option is SearchSettings:
        assert documented == set(search_time_names(kind))
    else:
        assert documented == set(index_settings(kind, {}).values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_search_setting_can_be_set_by_a_string_and_keeps_the_others(kind: str) -> None:
    built = index_settings(kind, {})
    for name in search_time_names(kind):
        part = next(part for part in ALL_PARTS if name in part.model_fields)
        default = getattr(part(), name)
        choices = get_args(part.model_fields[name].annotation)
        value = str(choices[-1] if choices else 7 if isinstance(default, int) else "cpu")
        chosen = for_search(built, kind, {name: value})
        changed = {key: new for key, new in chosen.flat().items() if new != built.flat()[key]}
        extra = {**chosen.rerank.model_dump(), **chosen.ties.model_dump()}
        assert str((extra | changed)[name]) == value
        assert set(changed) <= {name}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("bm25", {"k1": "-1"}, r"setting k1: expected a number >= 0, got '-1'"),
        ("bm25", {"k1": "nan"}, r"setting k1: expected a number >= 0, got 'nan'"),
        ("bm25", {"b": "2"}, r"setting b: expected a number >= 0 and <= 1, got '2'"),
        ("bm25", {"method": "lucine"}, r"got 'lucine'; did you mean lucene\?"),
        ("bm25", {"factory": "Flat"}, r"'factory': unknown for this kind of index; known are"),
        ("dense", {"normalize": "maybe"}, r"setting normalize: expected true or false"),
        ("dense", {"nprobe": "0"}, r"setting nprobe: expected an integer >= 1, got '0'"),
        ("dense", {"max_length": "long"}, r"setting max_length: expected an integer >= 1"),
        ("dens", {}, r"kind: expected one of bm25, dense, hybrid, got 'dens'; did you mean dense"),
    ],
)
def test_a_wrong_setting_is_named(kind: str, given: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        index_settings(kind, given)


def test_the_parameters_of_a_manifest_keep_their_keys_and_order() -> None:
    """Digests of indexes depend on them, and older indexes have to open."""
    parameters = index_settings("hybrid", {"tokens": "words"}).flat()
    assert " ".join(parameters) == (
        "method k1 b stop_words stemmer preset query_prefix passage_prefix pooling normalize "
        "max_length batch_size batch_tokens dtype device encoder_backend factory rescore "
        "train_size shard_size candidates nprobe ef_search backend first_pass rrf_constant depth"
    )
    assert built_settings("hybrid", json.loads(json.dumps(parameters))).flat() == parameters


def test_experiment_command_and_server_search_alike(index: Path) -> None:
    wanted = {"rrf_constant": 1, "depth": 4}
    here = open_index(index, {name: str(value) for name, value in wanted.items()})
    expected = here.search(QUERIES, 3)
    assert expected != open_index(index).search(QUERIES, 3)
    local = _from_experiment(index, "retriever.search.rrf_constant=1", "retriever.search.depth=4")
    assert local.search(QUERIES, 3) == expected
    digests = retriever_digests(local, load_config([]))
    assert "search" not in retriever_digests(open_index(index), load_config([]))
    with serving(here) as url:
        assert httpx.get(f"{url}/healthz", trust_env=False).json()["search"] == wanted
        remote = HttpRetriever([url], timeout=20, retries=0)
        assert remote.search(QUERIES, 3) == expected
        assert retriever_digests(remote, load_config([])) == {
            key: digests[key] for key in ("index", "search")
        }


def test_a_reranker_is_known_by_its_files(index: Path, reranker: Path, tmp_path: Path) -> None:
    """Another model at its place is another search, though its name is the same."""
    name = f"retriever.search.reranker={reranker}"
    digests = retriever_digests(before := _from_experiment(index, name), load_config([]))
    with serving(before) as url:
        remote = HttpRetriever([url], timeout=20, retries=0)
        assert retriever_digests(remote, load_config([])).items() <= digests.items()
        assert remote.describe().reranker_digest == before.describe().reranker_digest
    config, inputs = load_config([]), TrainingInputs(before, [], [])
    (tmp_path / METRICS_NAME).touch()
    keep_or_compare_inputs(tmp_path, input_digests(config, inputs), resume=False)
    keep_or_compare_inputs(tmp_path, input_digests(config, inputs), resume=True)
    settings = json.loads((reranker / "config.json").read_text())
    (reranker / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 1e-3}))
    after = _from_experiment(index, name)
    now = retriever_digests(after, load_config([]))
    assert {key for key in digests if digests[key] != now[key]} == {"reranker"}
    with pytest.raises(InvalidInputError, match=r"other reranker \(retriever.search.reranker\)"):
        keep_or_compare_inputs(
            tmp_path, input_digests(config, TrainingInputs(after, [], [])), resume=True
        )
    said = pytest.raises(InvalidInputError, match="search one index differently")
    with serving(before) as one, serving(after) as other, said:
        HttpRetriever([one, other], timeout=20, retries=0).check()


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
