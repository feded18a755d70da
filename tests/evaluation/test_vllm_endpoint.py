"""vLLM's own OpenAI server behind --endpoint, and vLLM in this process: the greedy answers of the
transformers engine. Needs vLLM: `make test-vllm`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tests.engine_server import EngineServer
from tspo_cli.runs import read_json, read_jsonl_gz

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]
Tspo = Callable[..., Finished]
# Messages one after the other, observations between empty lines: the text that the policy was
# trained on.
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' and not loop.first %}"
    "{{ '\\n\\n' + message.content + '\\n\\n' }}{% else %}{{ message.content }}{% endif %}{% "
    "endfor %}"
)
ROUTES = {"token ids": [], "text": ["endpoint.send=text"], "chat": ["endpoint.api=chat"]}


@pytest.fixture(scope="module")
def url(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "chat.jinja").write_text(TEMPLATE)
    server = EngineServer(
        playground.model,
        folder / "log.txt",
        *("--", "--chat-template", folder / "chat.jinja"),
        token="",
    )
    server.start()
    try:
        server.wait()
        yield f"{server.url}/v1"
    finally:
        server.kill()


@pytest.fixture(scope="module")
def options(playground: Playground) -> list[object]:
    return [
        "eval",
        playground.model,
        "--data",
        playground.world / "test.jsonl",
        "--index",
        playground.index,
    ]


@pytest.fixture(scope="module")
def here(options: list[object], tspo: Tspo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("here") / "o"
    tspo(*options, "--out", out)
    return out


def turns(folder: Path) -> list[list[tuple[str, str, str | None]]]:
    """Kind, text and query of every turn."""
    return [
        [(turn["kind"], turn["text"], turn["query"]) for turn in item["trajectory"]["turns"]]
        for item in read_jsonl_gz(folder / "world.items.jsonl.gz")
    ]


@pytest.mark.parametrize("route", ROUTES)
def test_its_server_answers_as_the_model_in_this_process(
    route: str, url: str, options: list[object], here: Path, tspo: Tspo, tmp_path: Path
) -> None:
    settings = [part for setting in ROUTES[route] for part in ("--set", setting)]
    tspo(*options, "--endpoint", url, *settings, "--out", tmp_path / "there")
    mine, theirs = turns(here), turns(tmp_path / "there")
    assert sum(kind == "search" for turn in mine for kind, *_ in turn) > 0
    if route == "token ids":
        assert theirs == mine
    # The server takes the text apart again, which need not give the tokens that were sampled.
    else:
        assert sum(a == b for a, b in zip(mine, theirs, strict=True)) >= 0.8 * len(mine)
    scores = read_json(tmp_path / "there" / "world.json")
    assert scores["digests"]["engine"] == ("chat" if route == "chat" else "completions")


def test_vllm_in_this_process_does_too(
    options: list[object], here: Path, tspo: Tspo, tmp_path: Path
) -> None:
    tspo(*options, "--set", "rollout.engine=vllm", "--out", tmp_path / "o", timeout=400)
    assert turns(tmp_path / "o") == turns(here)
    assert read_json(tmp_path / "o" / "world.json")["digests"]["engine"] == "vllm-float32"


def test_a_model_that_the_server_does_not_have(
    url: str, options: list[object], tmp_path: Path
) -> None:
    done = run_tspo(
        *options, "--endpoint", url, "--set", "endpoint.model=other", "--out", tmp_path / "o"
    )
    assert done.code == 5
    assert "404" in done.err
    assert "other" in done.err
