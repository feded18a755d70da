"""Weights over vLLM's transfer API: the learner's side against a server that checks every call,
with gloo in place of NCCL.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.rollout.engines.vllm_engine.gloo_group import VERSION, Groups, from_first, member
from tests.rollout.engines.vllm_engine.test_vllm_servers import CONTEXT, FakeVllm, complete
from tspo_cli.commands import engine as engine_command
from tspo_cli.commands.app import app as tspo_app
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError, MissingResourceError, RemoteServiceError
from tspo_cli.rollout.engines.vllm_engine import weight_sender
from tspo_cli.rollout.engines.vllm_engine.nccl import ID_BYTES
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import transfer_in_words
from tspo_cli.rollout.engines.vllm_engine.vllm_open import refuse_impossible_transfer
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers
from tspo_cli.rollout.engines.vllm_engine.weight_sender import obstacle

TOKEN = "a-token-that-only-the-run-and-its-servers-have"
WEIGHTS = {
    "embed": torch.arange(12, dtype=torch.bfloat16).reshape(3, 4),
    "norm": torch.randn(4, generator=torch.Generator().manual_seed(0)),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "one": torch.tensor(3.5),
}
UPDATE = [
    "/pause?mode=keep",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/resume",
]
MEETING = "/init_weight_transfer_engine"


class FakeReceiver(FakeVllm):
    """Its workers receive what the learner sends. It dies after `lives` tensors of an update, and
    `fails` names the path to which it answers 500.
    """

    def __init__(self, port: int = 0, workers: int = 1) -> None:
        super().__init__(port)
        self.token, self.workers = TOKEN, workers
        self.groups: list[Any] = []
        self.active, self.lives, self.fails, self.joins = False, 99, "", True
        self.weights: list[dict[str, torch.Tensor]] = []

    def respond(self, path: str, body: Any) -> tuple[int, Any]:
        if path == self.fails:
            return 500, {"error": {"message": "CUDA out of memory"}}
        status, content = super().respond(path, body)
        if path == "/collective_rpc" and body["method"] == "tspo_transfer":
            answer = {"backend": "nccl", "nccl": VERSION, "gpu": f"GPU-{self.server_port}"}
            return 200, {"results": [answer] * self.workers}
        if path == MEETING:
            self.meet(**body["init_info"])
        elif path == "/start_weight_update":
            assert self.groups
            assert not self.active
            self.active = True
        elif path == "/update_weights":
            assert self.active
            if not self.receive(**body["update_info"]):
                threading.Thread(target=self.kill).start()
                self.dead.wait()
        elif path == "/finish_weight_update":
            assert self.active
            assert list(body) == ["weight_version"]
            self.active, self.label = False, body["weight_version"]
        return status, content

    def meet(
        self, nccl_unique_id_b64: str, rank_offset: int, world_size: int, packed: bool
    ) -> None:
        group_id = base64.b64decode(nccl_unique_id_b64, validate=True)
        assert (len(group_id), rank_offset, packed) == (ID_BYTES, 1, False)
        assert world_size == 1 + self.workers
        self.active, self.groups = False, []
        if not self.joins:
            self.dead.wait()
            return

        def join(rank: int) -> None:
            self.groups.append(member(group_id, rank, world_size))

        in_threads([lambda rank=rank: join(rank) for rank in range(1, world_size)])

    def receive(self, names: list[str], dtype_names: list[str], shapes: list[list[int]]) -> bool:
        got: list[dict[str, torch.Tensor]] = [{} for _ in self.groups]

        def take(worker: int) -> None:
            for name, dtype, shape in list(zip(names, dtype_names, shapes, strict=True))[
                : self.lives
            ]:
                tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                from_first(self.groups[worker], tensor).wait()
                got[worker][name] = tensor

        in_threads([lambda worker=worker: take(worker) for worker in range(len(self.groups))])
        self.weights = got
        return len(got[0]) == len(names)

    def paths(self) -> list[str]:
        """What controls it, since the last look."""
        quiet = ("/v1/models", "/weight_info", "/health", "/metrics", "/inference/v1/generate")
        paths = [path for path, _ in self.calls if path not in quiet]
        self.calls.clear()
        return paths


def in_threads(works: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def servers() -> Iterator[list[FakeReceiver]]:
    running = [FakeReceiver(), FakeReceiver(workers=2)]
    yield running
    for server in running:
        if not server.dead.is_set():
            server.kill()


def connect(
    servers: Sequence[FakeVllm],
    folder: Path,
    messages: list[str] | None = None,
    *,
    groups: Groups | None = None,
    **more: Any,
) -> VllmServers:
    defaults = {"patience": 20.0, "processes": ProcessGroup(), "token": TOKEN, "transfer": "nccl"}
    return VllmServers(
        [server.url for server in servers],
        folder,
        eos_ids=[1],
        max_context=CONTEXT,
        log=[].append if messages is None else messages.append,
        groups=groups or Groups(),
        **(defaults | more),
    )


def check(server: FakeReceiver, weights: dict[str, torch.Tensor], engine: VllmServers) -> None:
    """Every worker has the weights bit by bit, under the label of the last hand-over."""
    assert len(server.weights) == server.workers
    for got in server.weights:
        assert list(got) == list(weights)
        assert all(got[name].dtype == value.dtype for name, value in weights.items())
        assert all(torch.equal(got[name], value) for name, value in weights.items())
    assert server.label == engine._label(engine.weight_version)


def test_every_call_in_its_order_with_the_token(
    servers: list[FakeReceiver], tmp_path: Path
) -> None:
    messages: list[str] = []
    engine = connect(servers, tmp_path, messages)
    assert messages == ["weights reach the vLLM servers over NCCL"]
    assert [server.paths() for server in servers] == [["/collective_rpc"]] * 2
    engine.load_weights(WEIGHTS, 1)
    meeting = [UPDATE[0], MEETING, *UPDATE[1:]]
    assert [server.paths() for server in servers] == [meeting] * 2
    for server in servers:
        check(server, WEIGHTS, engine)
    other = {name: value + 1 for name, value in WEIGHTS.items()}
    engine.load_weights(other, 2)
    assert [server.paths() for server in servers] == [UPDATE] * 2, "they meet once"
    for server in servers:
        check(server, other, engine)
        assert server.refused == []
    assert {done.weight_version for done in complete(engine, 4)} == {2}
    assert list(tmp_path.iterdir()) == [], "no weights lie on a disk"
    engine.close()
    assert [server.paths() for server in servers] == [["/shutdown_weight_transfer_engine"]] * 2


def test_processes_without_servers_gather_the_weights_too(
    servers: list[FakeReceiver], tmp_path: Path
) -> None:
    passes: list[int] = []

    def weights(rank: int) -> Iterator[tuple[str, torch.Tensor]]:
        passes.append(rank)
        yield from WEIGHTS.items()

    engines = [connect(servers[:1], tmp_path, processes=ProcessGroup(rank, 2)) for rank in range(2)]
    for version in (1, 2):
        for rank, engine in enumerate(engines):
            engine.load_one_by_one(lambda rank=rank: weights(rank), version)
    assert sorted(passes) == [0, 0, 0, 1, 1, 1], "once for the shapes, once for each hand-over"
    check(servers[0], WEIGHTS, engines[0])
    for engine in engines:
        engine.close()


def test_a_server_that_was_started_again_is_met_again(
    servers: list[FakeReceiver], tmp_path: Path
) -> None:
    engine = connect(servers, tmp_path)
    engine.load_weights(WEIGHTS, 1)
    port = servers[0].server_port
    servers[0].kill()
    servers[0] = FakeReceiver(port)
    engine.load_weights(WEIGHTS, 2)
    assert servers[0].paths() == [UPDATE[0], MEETING, *UPDATE[1:]]
    check(servers[0], WEIGHTS, engine)
    engine.close()


@pytest.mark.parametrize("lives", [0, 2])
def test_a_server_that_dies_in_the_middle_takes_no_other_with_it(
    servers: list[FakeReceiver], tmp_path: Path, lives: int
) -> None:
    messages: list[str] = []
    engine = connect(servers, tmp_path, messages)
    engine.load_weights(WEIGHTS, 1)
    servers[0].lives = lives
    engine.load_weights(WEIGHTS, 2)
    assert f"engine {servers[0].url} is lost" in messages[1]
    check(servers[1], WEIGHTS, engine)
    assert {done.weight_version for done in complete(engine, 4)} == {2}
    servers[0] = FakeReceiver(servers[0].server_port)
    engine.load_weights(WEIGHTS, 3)
    check(servers[0], WEIGHTS, engine)
    assert {done.weight_version for done in complete(engine, 4)} == {3}
    engine.close()


def test_the_last_server_without_the_weights_ends_the_run(
    servers: list[FakeReceiver], tmp_path: Path
) -> None:
    engine = connect(servers[:1], tmp_path)
    engine.load_weights(WEIGHTS, 1)
    servers[0].label = "started again"
    with pytest.raises(RemoteServiceError, match=r"at the next hand-over.* use --resume"):
        complete(engine, 1)
    engine.close()


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (MEETING, "does not take weights over NCCL"),
        ("/start_weight_update", "does not take weights over NCCL"),
        ("/update_weights", "CUDA out of memory"),
        ("/finish_weight_update", "does not take weights over NCCL"),
    ],
)
def test_a_refusal_is_one_line_and_nobody_waits(
    servers: list[FakeReceiver],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    line: str,
) -> None:
    monkeypatch.setattr("tspo_cli.rollout.engines.vllm_engine.vllm_control.RETRY_SECONDS", 0.01)
    groups = Groups()
    engine = connect(servers[:1], tmp_path, groups=groups)
    if path != MEETING:
        engine.load_weights(WEIGHTS, 1)
    servers[0].fails = path
    with pytest.raises(RemoteServiceError, match=line) as raised:
        engine.load_weights(WEIGHTS, 2)
    assert servers[0].url in str(raised.value)
    assert "\n" not in str(raised.value)
    assert all(group.aborted for group in groups.made)


def test_servers_that_do_not_meet_are_not_waited_for(
    servers: list[FakeReceiver], tmp_path: Path
) -> None:
    engine = connect(servers[:1], tmp_path, patience=0.3)
    servers[0].joins = False
    with pytest.raises(RemoteServiceError, match=r"within 0.3 s \(vllm.patience\)"):
        engine.load_weights(WEIGHTS, 1)


def test_a_transfer_that_stands_still_ends(
    servers: list[FakeReceiver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_sender, "TRANSFER_SECONDS", 0.2)
    engine = connect(servers[:1], tmp_path)
    engine.load_weights(WEIGHTS, 1)
    monkeypatch.setattr(servers[0], "receive", lambda **_: servers[0].dead.wait())
    with pytest.raises(RemoteServiceError, match=r"not received within 0 s.*vllm.transfer"):
        engine.load_weights(WEIGHTS, 2)


def test_other_weights_than_announced_are_an_error(
    servers: list[FakeReceiver], tmp_path: Path
) -> None:
    groups = Groups()
    engine = connect(servers[:1], tmp_path, groups=groups)
    engine.load_weights(WEIGHTS, 1)
    with pytest.raises(ValueError, match="norm"):
        engine.load_weights(WEIGHTS | {"norm": torch.zeros(5)}, 2)
    assert groups.made[0].aborted


OFFER = {"backend": "nccl", "nccl": VERSION, "gpu": "GPU-1"}


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ([], "--transfer nccl"),
        ([OFFER | {"backend": ""}], "--transfer nccl"),
        ([OFFER | {"backend": "ipc"}], "--transfer nccl"),
        ([OFFER, OFFER | {"backend": ""}], "--transfer nccl"),
        ([OFFER | {"nccl": 22803}], "has NCCL 2.28.3, the training process 2.27.5"),
        ([OFFER | {"nccl": 0}], "has NCCL none"),
        ([OFFER, OFFER | {"gpu": "GPU-learner"}], "the GPU of a training process"),
        ([OFFER, OFFER | {"gpu": "GPU-2"}], ""),
    ],
)
def test_why_nccl_is_not_possible(workers: list[dict[str, Any]], words: str) -> None:
    reason = obstacle({"http://a": workers}, Groups(), adapters=False)
    assert (words in reason, bool(reason)) == (True, bool(words))
    assert "needs a GPU" in obstacle({"http://a": workers}, None, adapters=False)
    assert "merged" in obstacle({"http://a": workers}, Groups(), adapters=True)


def test_auto_takes_files_where_one_process_cannot_send(
    servers: list[FakeReceiver], tmp_path: Path
) -> None:
    """The others follow it, and the line says why."""
    plain = FakeVllm()
    plain.token = TOKEN
    messages: list[str] = []
    engine = connect([plain], tmp_path, messages, transfer="auto")
    assert engine.sender is None
    assert "files, not over NCCL" in messages[0]
    assert plain.url in messages[0]
    engine.close()
    with pytest.raises(InvalidInputError, match=r'vllm.transfer: nccl .*transfer = "files"'):
        connect([plain], tmp_path)
    plain.kill()
    others = ProcessGroup(gather=lambda own: [own, "the second has its GPU from a server"])
    engine = connect(servers, tmp_path, messages, transfer="auto", processes=others)
    assert engine.sender is None
    assert "the second" in messages[1]
    engine.close()


@pytest.mark.parametrize(
    ("settings", "gpu", "words"),
    [
        ([], True, ""),
        (["rollout.engine=vllm"], True, ""),
        (["vllm.url=['http://a']"], True, ""),
        (["rollout.engine=vllm", "vllm.url=['http://a']"], True, "over NCCL, or as files"),
        (["rollout.engine=vllm", "launch.engines=1"], True, "over NCCL, or as files"),
        (["rollout.engine=vllm", "vllm.url=['http://a']"], False, "files, as no GPU is here"),
        (
            ["rollout.engine=vllm", "launch.engines=1", "lora.rank=4"],
            True,
            ": as files, as adapters",
        ),
        (["rollout.engine=vllm", "launch.engines=1", "vllm.transfer=files"], True, ": as files ("),
        (["rollout.engine=vllm", "launch.engines=1", "vllm.transfer=nccl"], True, ": over NCCL ("),
    ],
)
def test_the_choice_in_words(settings: list[str], gpu: bool, words: str) -> None:
    told = transfer_in_words(load_config([], settings), gpu=gpu)
    assert (words in told, bool(told)) == (True, bool(words))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_what_needs_a_gpu_says_so_before_it_starts() -> None:
    config = load_config([], ["vllm.transfer=nccl"])
    with pytest.raises(MissingResourceError, match=r"vllm\.transfer: nccl needs a GPU"):
        refuse_impossible_transfer(config)
    refuse_impossible_transfer(load_config([], []))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_command, "require", lambda *_: None)
        done = CliRunner().invoke(tspo_app, ["engine", "model", "--transfer", "nccl"])
    assert isinstance(done.exception, MissingResourceError)
    assert "--transfer nccl: needs a GPU" in str(done.exception)


@pytest.mark.parametrize(
    ("gpu", "wish", "receives"),
    [(True, "auto", True), (True, "nccl", True), (True, "files", False), (False, "auto", False)],
)
def test_a_server_on_a_gpu_can_receive(
    gpu: bool, wish: str, receives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, arguments, __: started.append(arguments))
    monkeypatch.setattr(engine_command, "require", lambda *_: None)
    monkeypatch.setattr(engine_command, "_has_gpu", lambda: gpu)
    done = CliRunner().invoke(tspo_app, ["engine", "model", "--transfer", wish])
    assert done.exit_code == 0, done.output
    (words,) = started
    assert ("--weight-transfer-config" in words) is receives
    if receives:
        place = words.index("--weight-transfer-config")
        assert json.loads(words[place + 1]) == {"backend": "nccl"}


def test_without_the_token_no_server_is_asked(servers: list[FakeReceiver], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="refuses the token"):
        connect(servers, tmp_path, token="another-token-of-some-length")
    assert {path for server in servers for path, _ in server.calls} == {"/health"}
