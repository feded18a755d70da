"""What an evaluation does when things around it change or break: settings, retriever, folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.evaluation.reader_server import Reader
from tests.retrieval.server.live_server import serving
from tspo_cli.commands.app import app
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError, RemoteServiceError, UsageError
from tspo_cli.evaluation.answering.open_engine import open_engine
from tspo_cli.evaluation.standalone import EvaluationRequest, eval_config
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.types import RetrieverInfo, SearchResult
from tspo_cli.runs import read_jsonl_gz


def evaluate(films: Path, url: str, out: Path, *more: object) -> Result:
    options = ["eval", "reader", "--endpoint", url, "--out", out, "--set", "retriever.k=1", *more]
    options += [] if "--data" in options else ["--data", films / "films.jsonl"]
    return CliRunner().invoke(app, [str(option) for option in options])


def test_finished_sets_are_not_replaced_by_others(
    films: Path, reader: tuple[Reader, str], tmp_path: Path
) -> None:
    _, url = reader
    index = ("--index", films / "index")
    assert evaluate(films, url, tmp_path / "o", *index).exit_code == 0
    before = (tmp_path / "o" / "films.json").read_bytes()
    other = evaluate(
        films, url, tmp_path / "o", *index, "--resume", "--set", "rollout.max_searches=1"
    )
    assert isinstance(other.exception, InvalidInputError)
    assert "was made with other settings" in str(other.exception)
    assert (tmp_path / "o" / "films.json").read_bytes() == before
    # Killed between two sets: nothing is half done, and still it is somebody's work.
    (tmp_path / "o" / "eval.json").unlink()
    assert isinstance(evaluate(films, url, tmp_path / "o", *index).exception, InvalidInputError)
    replaced = evaluate(
        films, url, tmp_path / "o", *index, "--overwrite", "--set", "rollout.max_searches=1"
    )
    assert replaced.exit_code == 0
    assert (tmp_path / "o" / "films.json").read_bytes() != before


class Fragile:
    """An index that fails from its `life`-th query on."""

    blocking = False

    def __init__(self, index: Path, life: int) -> None:
        self.searcher, self.life = open_index(index), life

    def describe(self) -> RetrieverInfo:
        return self.searcher.describe()

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        self.life -= len(queries)
        if self.life < 0:
            raise RuntimeError("the disk is gone")
        return self.searcher.search(queries, k)


@pytest.mark.parametrize(("api", "told"), [("completions", True), ("chat", False)])
def test_a_system_message_that_is_sent_to_nobody_is_warned_of(
    films: Path, reader: tuple[Reader, str], tmp_path: Path, api: str, told: bool
) -> None:
    options = ("--set", f"endpoint.api={api}", "--set", "rollout.system=Be brief.")
    done = evaluate(films, reader[1], tmp_path / "o", "--index", films / "index", *options)
    assert done.exit_code == 0, done.output
    assert ("warning: rollout.system: without effect" in done.output) == told


@pytest.fixture(scope="module")
def halves(
    films: Path, reader: tuple[Reader, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with an evaluation that is finished, and one that ended before its last question."""
    root = tmp_path_factory.mktemp("halves")
    first = (films / "films.jsonl").read_text()
    second = first.replace('"1"', '"2"').replace("Where", "In which town")
    (root / "two.jsonl").write_text(first + second)
    options = ("--data", root / "two.jsonl", "--set", "eval.portion=1")
    with serving(Fragile(films / "index", life=4)) as service:
        for name, source in (("finished", films / "index"), ("stopped", service)):
            kind = "--index" if name == "finished" else "--retriever"
            evaluate(films, reader[1], root / name, kind, source, *options)
    assert (root / "finished" / "eval.json").exists()
    assert len((root / "stopped" / "two.partial.jsonl").read_text().splitlines()) == 2
    return root


@pytest.mark.parametrize("name", ["finished", "stopped"])
@pytest.mark.parametrize(
    ("more", "differs"),
    [
        (["rollout.prompt=short"], "rollout.prompt (was search_r1, now short)"),
        (["retriever.k=2", "seed=7"], "retriever.k (was 1, now 2), seed (was 0, now 7)"),
        (["eval.temperature=1"], "eval.temperature (was 0.0, now 1.0)"),
        (["rollout.system=" + "long " * 99], 'rollout.system (was "", now "long long '),
        (["endpoint.model=other"], 'model (was "reader", now "other")'),
        ([], 'data (was "'),
    ],
)
def test_a_setting_that_differs_is_named_with_both_values(
    films: Path, reader: tuple[Reader, str], halves: Path, name: str, more: list[str], differs: str
) -> None:
    options: list[object] = [part for setting in more for part in ("--set", setting)]
    options += ["--data", halves / "two.jsonl", "--index", films / "index"]
    options += [] if more else ["--limit", 1]
    ended = evaluate(films, reader[1], halves / name, "--resume", *options)
    assert isinstance(ended.exception, InvalidInputError), ended.output
    told = str(ended.exception)
    assert "other settings: " in told
    assert differs in told
    assert not any(word in told for word in (" config (", " k ("))
    assert len(told) < 400


def test_a_retriever_that_goes_away_is_no_wrong_answer(
    films: Path, reader: tuple[Reader, str], tmp_path: Path
) -> None:
    _, url = reader
    (question,) = [json.loads(line) for line in (films / "films.jsonl").read_text().splitlines()]

    def varied(place: int) -> dict[str, str]:
        # The service remembers answers.
        return {"id": str(place), "question": f"{question['question']} Say it in {place} words."}

    data = tmp_path / "many.jsonl"
    data.write_text("".join(json.dumps(question | varied(place)) + "\n" for place in range(12)))
    options = ("--data", data, "--set", "eval.portion=4")
    assert (
        evaluate(films, url, tmp_path / "whole", *options, "--index", films / "index").exit_code
        == 0
    )
    retriever = Fragile(films / "index", life=9)
    with serving(retriever) as service:
        broken = evaluate(films, url, tmp_path / "o", *options, "--retriever", service)
        assert isinstance(broken.exception, RemoteServiceError)
        assert "the disk is gone" in str(broken.exception)
        assert "--resume" in str(broken.exception)
        kept = (tmp_path / "o" / "many.partial.jsonl").read_text().splitlines()[1:]
        assert 4 <= len(kept) < 12
        assert not any(json.loads(line)["record"]["failed"] for line in kept)
        retriever.life = 10_000
        assert (
            evaluate(
                films, url, tmp_path / "o", *options, "--retriever", service, "--resume"
            ).exit_code
            == 0
        )
    items = [
        list(read_jsonl_gz(tmp_path / name / "many.items.jsonl.gz")) for name in ("whole", "o")
    ]
    assert items[0] == items[1]
    assert len(items[0]) == 12
    digests = [
        json.loads((tmp_path / name / "many.json").read_text())["digests"]
        for name in ("whole", "o")
    ]
    assert digests[0].pop("corpus")
    assert digests[0] == digests[1], "the server says which index it has"
    timings = json.loads((tmp_path / "o" / "timings.json").read_text())["many"]["items"]
    assert list(timings) == [item["key"] for item in items[0]]
    assert min(timings.values()) > 0


def changed(**values: object) -> str:
    from tspo_cli.evaluation.signature import config_digest

    return config_digest(
        load_config([], [f"{key.replace('__', '.')}={value}" for key, value in values.items()])
    )


def test_the_signature_knows_what_changes_answers() -> None:
    plain = changed()
    for key, value in {
        "rollout__max_searches": 2,
        "rollout__prompt": "short",
        "rollout__top_p": 0.9,
        "retriever__k": 5,
        "seed": 1,
        "eval__temperature": 0.5,
        "model__max_context": 512,
    }.items():
        assert changed(**{key: value}) != plain, key
    for key, value in {
        "rollout__group_size": 8,
        "rollout__temperature": 0.7,
        "rollout__engine": "vllm",
        "eval__batch_size": 9,
        "retriever__timeout": 3,
        "retriever__index": "elsewhere",
        "endpoint__concurrency": 2,
        "optimizer__lr": 0.1,
    }.items():
        assert changed(**{key: value}) == plain, key
    remote = {"endpoint__url": "http://a"}
    assert changed(**remote, endpoint__api="chat") != changed(**remote)
    assert changed(**remote, endpoint__extra='{"x": 1}') != changed(**remote)


def test_where_a_model_was_trained_does_not_decide_where_it_is_evaluated(tmp_path: Path) -> None:
    agent: dict[str, Any] = {"rollout": {"engine": "vllm", "max_searches": 2}, "k": 5}
    (tmp_path / "tspo_agent.json").write_text(json.dumps(agent))
    config = eval_config(tmp_path, EvaluationRequest(str(tmp_path), ("x",)))
    assert (config.rollout.engine, config.rollout.max_searches, config.retriever.k) == (
        "transformers",
        2,
        5,
    )
    servers = EvaluationRequest(
        str(tmp_path),
        ("x",),
        settings=("rollout.engine=vllm", 'vllm.url=["http://127.0.0.1:8100"]'),
    )
    with pytest.raises(UsageError, match="--endpoint"):
        open_engine(eval_config(tmp_path, servers))


@pytest.mark.parametrize("gate", ["em=nan", "nan", "em=", "="])
def test_gates_are_numbers(
    films: Path, reader: tuple[Reader, str], tmp_path: Path, gate: str
) -> None:
    done = evaluate(films, reader[1], tmp_path / "o", "--method", "direct", "--fail-under", gate)
    assert isinstance(done.exception, UsageError)
    assert not (tmp_path / "o").exists()
