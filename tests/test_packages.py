"""Packages that only some experiments need are asked for before anything is opened."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli import packages
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import MissingResourceError, TspoError
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.packages import OPTIONAL, is_installed, require_packages
from tspo_cli.retrieval.bm25 import bm25_ranker
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index

ROOT = Path(__file__).resolve().parents[1]
QDRANT = ("retriever.qdrant.url=http://127.0.0.1:9", "retriever.qdrant.collection=c")
HERE = Path(__file__).parent / "fixtures" / "run_0_1_0" / "start" / "model"


@pytest.fixture
def nothing_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package of an extra is installed."""
    monkeypatch.setattr(packages, "is_installed", lambda module: module not in OPTIONAL)


@pytest.mark.usefixtures("nothing_optional")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["rollout.engine=vllm"], ["vllm", "tspo-cli[gpu]"]),
        (["lora.rank=4"], ["lora.rank = 4", "tspo-cli[lora]"]),
        (["track.tensorboard=true"], ["track.tensorboard", "tspo-cli[track]"]),
        ([*QDRANT, "retriever.qdrant.kind=sparse"], ["qdrant-client", "tspo-cli[qdrant]"]),
        (QDRANT, ["sentence-transformers", "tspo-cli[qdrant,dense]"]),
        (["rollout.engine=vllm", "lora.rank=4"], ["vllm", "peft", "tspo-cli[gpu,lora]"]),
    ],
)
def test_what_a_training_lacks_is_said_with_the_command(
    settings: list[str], said: list[str]
) -> None:
    with pytest.raises(MissingResourceError) as raised:
        require_packages(load_config([], settings))
    message = str(raised.value)
    assert all(part in message for part in said), message
    assert len(message.splitlines()) == 1


@pytest.mark.usefixtures("nothing_optional")
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["rollout.engine=vllm", "vllm.url=['http://127.0.0.1:9']"],
        ["retriever.index=somewhere", *QDRANT],
        ["retriever.url=http://127.0.0.1:9", *QDRANT],
    ],
)
def test_what_runs_elsewhere_or_is_not_used_is_not_asked_for(settings: list[str]) -> None:
    require_packages(load_config([], settings))


@pytest.mark.usefixtures("nothing_optional")
def test_an_evaluation_asks_only_for_what_it_uses() -> None:
    training_alone = load_config([], ["lora.rank=4", "track.tensorboard=true"])
    require_packages(training_alone, training=False)
    engine = load_config([], ["rollout.engine=vllm"])
    with pytest.raises(MissingResourceError, match="vllm"):
        require_packages(engine, training=False)
    served = load_config([], ["rollout.engine=vllm", "endpoint.url=http://127.0.0.1:9/v1"])
    require_packages(served, training=False)


@pytest.mark.skipif(is_installed("vllm"), reason="vLLM is installed here")
def test_commands_without_vllm(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    settings = playground.settings(**{"rollout.engine": "vllm"})
    out, questions = tmp_path / "out", playground.world / "test.jsonl"
    evaluation = ("eval", playground.model, "--data", questions, "--method", "direct")
    for command in (
        ("train", "tiny/grpo", "--dry-run", *settings),
        ("train", "tiny/grpo", "--out", out, *settings),
        (*evaluation, "--set", "rollout.engine=vllm", "--out", out),
    ):
        done = run_tspo(*command)
        assert done.code == 4
        assert "tspo-cli[gpu]" in done.err
        assert "environment of its own" in done.err
    assert not out.exists()
    # These describe a run on another machine.
    tspo("plan", "tiny/grpo", *settings)
    tspo("config", "validate", "tiny/grpo", *settings)


def test_an_index_with_stemming_is_refused_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "a", "contents": "Rivers\\nRivers run"}\n')
    build_index(corpus, tmp_path / "index", kind="bm25", settings={"stemmer": "english"})
    bm25_ranker._stems.cache_clear()
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(MissingResourceError, match=r"stemmer = english.*tspo-cli\[stem\]"):
        open_index(tmp_path / "index")


@pytest.mark.parametrize(
    ("quantisation", "package"),
    [
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    ],
)
def test_a_quantised_model_names_the_package_that_it_needs(
    quantisation: dict[str, object], package: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(HERE, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantisation
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingResourceError, match=re.compile(package, re.IGNORECASE)) as raised:
        load_model(folder)
    assert len(str(raised.value).splitlines()) == 1


def test_a_tokenizer_without_its_fast_form_is_one_line(tmp_path: Path) -> None:
    folder = shutil.copytree(HERE, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(TspoError, match=r"no tokenizer\.json") as raised:
        load_tokenizer(folder)
    assert len(str(raised.value).splitlines()) == 1


def test_every_extra_that_is_named_exists_and_holds_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for package in OPTIONAL.values():
        assert any(line.startswith(package.name) for line in extras[package.extra]), package


def test_no_extras_bring_two_builds_of_one_module() -> None:
    """faiss-cpu and faiss-gpu install the same module; each extra joins the core packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = [requirement for found in lists for requirement in found]
    names = {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in needed}
    assert "faiss-cpu" in names
    assert not names & {"faiss-gpu", "faiss-gpu-cu12", "faiss"}


def test_nothing_that_is_installed_asks_for_another_build_of_faiss() -> None:
    """Also what the extras need in turn."""
    asked = {
        re.split(r"[\[<>=!~; (]", requirement)[0].lower()
        for distribution in metadata.distributions()
        for requirement in distribution.requires or ()
        if requirement.lower().startswith("faiss") and "extra ==" not in requirement
    }
    assert asked <= {"faiss-cpu"}


def test_commands_in_documents_never_install_two_builds_of_faiss() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        text = " ".join(page.read_text("utf-8").split())
        for match in re.finditer(r"pip install [^`]*faiss-gpu", text):
            before = text[max(0, match.start() - 60) : match.start()]
            assert "pip uninstall faiss-cpu" in before, page.name


def test_vllm_is_the_version_that_is_tested_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (extra,) = project["optional-dependencies"]["gpu"]
    pinned = re.match(r"vllm==(\d+\.\d+)\.\*;", extra)
    assert pinned is not None, "an exact minor version: vLLM's interfaces change with each"
    files = ("Makefile", "docs/vllm.md", "README.md", "docs/clusters.md")
    for name in files:
        versions = re.findall(r"vllm(?:-cpu)?==(\d+\.\d+)", (ROOT / name).read_text("utf-8"))
        assert set(versions) <= {pinned[1]}, name
    assert f"version {pinned[1]}" in (ROOT / "docs/vllm.md").read_text("utf-8")
