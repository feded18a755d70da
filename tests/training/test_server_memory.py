"""`tspo plan` and `tspo launch --dry-run` count the memory of the servers beside the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tspo_cli.commands.app import app
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import GateError, TspoError, UsageError
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.manifest import file_facts, make_manifest
from tspo_cli.retrieval.search_settings import index_settings
from tspo_cli.runs import write_json
from tspo_cli.training.planning.server_memory import ServerMemory, retriever_memory

GIB = 2**30
ROWS, WIDTH = 3000, 64
SEVEN_B = ("qwen2.5-7b/tspo", "--set", "retriever.url=[]")
ENGINES = ("--set", "launch.engines=4", "--set", "launch.engine_gpus=[4,5,6,7]")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat index whose encoder has weights of 1 MiB."""
    folder = tmp_path_factory.mktemp("dense")
    encoder, index = folder / "encoder", folder / "index"
    encoder.mkdir()
    index.mkdir()
    write_json(encoder / "config.json", {})
    save_file({"weights": np.zeros(2**18, np.float32)}, encoder / "model.safetensors")
    flat: Any = faiss.IndexFlatIP(WIDTH)
    flat.add(np.ones((ROWS, WIDTH), np.float32))
    faiss.write_index(flat, str(index / "vectors.faiss"))
    for name in ("passages.jsonl", "offsets.npy"):
        (index / name).write_bytes(b"-")
    files = {path.name: file_facts(path) for path in index.iterdir()}
    manifest = make_manifest(
        kind="dense",
        passages=ROWS,
        corpus={"path": "corpus.jsonl", "sha256": "0" * 64},
        settings=index_settings("dense", {}),
        encoder=str(encoder),
        encoder_sha256=None,
        files=files,
    )
    write_json(index / "manifest.json", manifest)
    return index


def memory(index: Path, gpus: int, *settings: str) -> ServerMemory:
    settings = (f"retriever.index={index}", "retriever.url=[]", *settings)
    return retriever_memory(load_config(["qwen2.5-3b/tspo"], [*settings]), gpus)


def tspo(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def refusal(*words: object, kind: type[TspoError] = GateError) -> str:
    done = tspo(*words)
    assert isinstance(done.exception, kind), done.output
    return str(done.exception)


def test_a_flat_index_is_read_by_every_search(dense: Path) -> None:
    size = (dense / "vectors.faiss").stat().st_size / GIB
    for backend in ("faiss", "torch"):
        on_cpu = memory(dense, 0, f"retriever.search.backend={backend}")
        assert (on_cpu.cpu["vectors"], on_cpu.gpu) == (size, {})
    assert on_cpu.cpu["encoder"] == pytest.approx(1 + 2**20 / GIB, rel=1e-3)


@pytest.mark.parametrize(("numbers", "row"), [("float32", 256), ("float16", 128), ("int8", 68)])
def test_gpus_share_the_vectors_of_a_torch_search(dense: Path, numbers: str, row: int) -> None:
    chosen = ("retriever.search.backend=torch", f"retriever.search.first_pass={numbers}")
    on_gpus = memory(dense, 2, *chosen)
    assert on_gpus.gpu["vectors"] == pytest.approx(ROWS * row / 2 / GIB)
    assert "vectors" not in on_gpus.cpu
    assert on_gpus.remark == ""


def test_gpus_that_an_index_does_not_use(dense: Path, tmp_path: Path) -> None:
    assert "the encoder alone uses them" in memory(dense, 1).remark
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "contents": "green apples"}\n')
    build_index(tmp_path / "corpus.jsonl", tmp_path / "index")
    words = memory(tmp_path / "index", 1)
    assert "nothing of this bm25 index runs on a GPU" in words.remark
    assert words.gpu == {}
    assert words.cpu["postings"] > 0


def test_a_plan_counts_the_servers_and_refuses_what_does_not_fit(dense: Path) -> None:
    words = ("plan", *SEVEN_B, *ENGINES, "--gpus", 4, "--gpu-memory", 80)
    words += ("--set", f"retriever.index={dense}", "--set", "launch.retriever=first")
    done = tspo(*words, "--json")
    assert done.exit_code == 0, done.stderr
    servers = json.loads(done.stdout)["servers"]
    engine = servers["engine"]["gpu_gib"]
    assert engine["weights"] == pytest.approx(14.2, abs=0.1)
    assert engine["kv_cache"] == 16
    assert engine["total"] == pytest.approx(sum(engine.values()) - engine["total"])
    assert servers["retriever"]["cpu_gib"]["vectors"] > 0
    problem = refusal(*words, "--set", "vllm.kv_cache_gib=70")
    assert "a vLLM server needs about 88.9 GiB of each of its GPUs" in problem
    assert "vllm.kv_cache_gib" in problem


def test_what_is_left_of_a_gpu_is_the_cache_of_a_server() -> None:
    words = ("plan", SEVEN_B[0], *ENGINES, "--gpus", 4, "--set", "vllm.kv_cache_gib=0", "--json")
    done = tspo(*words, "--gpu-memory", 80)
    engine = json.loads(done.stdout)["servers"]["engine"]["gpu_gib"]
    assert engine["total"] == pytest.approx(0.9 * 79)


def test_heads_that_gpus_cannot_share() -> None:
    """A node of eight for one server is what launch.engine_nodes offers; 7B has 28 heads."""
    eight = ("--set", "launch.engines=1", "--set", "launch.engine_nodes=1")
    place = ("--gpus", 8, "--hosts", "a,b", "--dry-run")
    problem = refusal("launch", SEVEN_B[0], *eight, *place)
    assert "a vLLM server on 8 GPUs shares out 28 attention heads" in problem


def test_a_dry_run_adds_up_each_node(dense: Path) -> None:
    index = ("--set", f"retriever.index={dense}", "--set", "launch.retriever=first")
    words = ("launch", *SEVEN_B, *ENGINES, *index, "--gpus", 8, "--dry-run")
    done = tspo(*words, "--json")
    (node,) = json.loads(done.stdout)["memory"]
    assert [*node["gpu_gib"]] == [*map(str, range(8))]
    names = ["4 training processes", "retriever_0", *(f"engine_{n}" for n in range(4)), "total"]
    assert [*node["cpu_gib"]] == names
    assert node["cpu_gib"]["total"] == pytest.approx(sum(node["cpu_gib"].values()) / 2)
    assert tspo(*words, "--node-memory", 100, "--gpu-memory", 80).exit_code == 0
    small = refusal(*words, "--node-memory", 20)
    assert "of CPU memory, more than the 20 GiB of --node-memory" in small
    narrow = refusal(*words, "--gpu-memory", 40)
    assert "for training, more than the 39.5 GiB that one offers" in narrow


def test_limits_of_a_dry_run_without_one() -> None:
    words = ("launch", "tiny/grpo", "--gpus", 0, "--node-memory", 20)
    assert "--dry-run" in refusal(*words, kind=UsageError)


def test_each_process_has_the_vectors_on_every_gpu(dense: Path) -> None:
    """An index without a server: training processes share its files, but no memory of GPUs."""
    torch = ("--set", "retriever.search.backend=torch")
    words = ("launch", *SEVEN_B, "--set", f"retriever.index={dense}", "--gpus", 8, "--dry-run")
    plain, on_gpus = (
        json.loads(tspo(*words, *more, "--json").stdout)["memory"][0] for more in ((), torch)
    )
    assert plain["cpu_gib"]["index"] == pytest.approx(
        (dense / "vectors.faiss").stat().st_size / GIB
    )
    more = on_gpus["gpu_gib"]["0"] - plain["gpu_gib"]["0"]
    assert more == pytest.approx(8 + ROWS * WIDTH * 4 / GIB, rel=1e-3), "a table of scores for each"


def test_an_index_that_is_elsewhere(tmp_path: Path) -> None:
    index = ("--set", f"retriever.index={tmp_path / 'nowhere'}", "--set", "launch.retriever=first")
    done = tspo("launch", *SEVEN_B, *index, "--gpus", 8, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "not counted: " in done.stdout
    assert "nowhere: no such index" in done.stdout
