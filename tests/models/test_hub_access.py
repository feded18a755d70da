"""Without a network, the local cache of the hub is used at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tspo_cli import hub_access
from tspo_cli.errors import MissingResourceError
from tspo_cli.models.load_model import load_tokenizer, model_config
from tspo_cli.retrieval.dense.load_encoder import load_reranker
from tspo_cli.retrieval.dense.presets import resolve_preset

VARIABLES = (*hub_access._SET_BY_USER, *hub_access._PROXIES)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Hosts whose address was asked for, which nobody knows."""
    hosts: list[object] = []

    def unknown(host: object, *rest: object, **more: object) -> object:
        hosts.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    hub_access.use_cache_without_network.cache_clear()
    yield hosts
    hub_access.use_cache_without_network.cache_clear()


def test_without_a_network_a_model_is_missing_at_once(
    looked_up: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(MissingResourceError, match="nobody/nothing"):
            model_config("nobody/nothing")
    assert len(looked_up) == 1
    assert capsys.readouterr().err.count("no network: ") == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("name", VARIABLES)
def test_proxies_and_what_a_user_has_set_stay(
    name: str, looked_up: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    hub_access.use_cache_without_network()
    assert not looked_up
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(model_config, id="model"),
        pytest.param(load_tokenizer, id="tokenizer"),
        pytest.param(lambda name: resolve_preset(name, {}), id="encoder"),
        pytest.param(lambda name: load_reranker(name, "cpu"), id="reranker"),
    ],
)
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a_file", "expected a directory of a .*, got a file; name the directory"),
        ("policy.gguf", "got a file; convert it with: tspo model convert policy.gguf --out DIR"),
        ("empty", "this directory has no .*; name "),
        ("empty/mistyped", "no such .* directory; check the path, or give a hub name like "),
        ("./mistyped", "no such .* directory"),
        ("../mistyped", "no such .* directory"),
        ("several/parts/here", "no such .* directory"),
        ("dangling", r"is a link to nothing \(nowhere\)"),
        ("two words", "no such .* directory"),
    ],
)
def test_what_is_no_name_of_the_hub_is_not_looked_up_there(
    load: Callable[[str], object],
    name: str,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looked_up: list[object],
) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    for file in ("a_file", "policy.gguf"):
        (tmp_path / file).write_bytes(b"GGUF")
    with pytest.raises(MissingResourceError, match=problem) as refused:
        load(name)
    assert "\n" not in str(refused.value)
    assert not looked_up
