"""Requests go to the least loaded server, and a server that dies takes no request with it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.rollout.engines.vllm_engine.test_vllm_servers import FakeVllm, connect
from tspo_cli.errors import RemoteServiceError
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling
from tspo_cli.rollout.engines.vllm_engine.vllm_group import MOVES_ABOVE, ServerGroup
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers

WEIGHTS = {"head": torch.ones(2)}


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    running = [FakeVllm(), FakeVllm()]
    yield running
    for server in running:
        if not server.dead.is_set():
            server.kill()


def submit(engine: VllmServers, sessions: range) -> None:
    for session in sessions:
        prompt = (2, 3, 10 + session)
        engine.submit(GenerationRequest(session, prompt, Sampling(max_new_tokens=8), 90 + session))


def collect(engine: VllmServers, count: int, at_least: float = 15.0) -> list[Completion]:
    done: list[Completion] = []
    end = time.monotonic() + at_least
    while len(done) < count:
        assert time.monotonic() < end, f"{len(done)} of {count}"
        done += engine.step()
    return sorted(done, key=lambda completion: completion.session)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_server_killed_in_the_middle_takes_no_request_with_it(
    servers: list[FakeVllm], tmp_path: Path
) -> None:
    messages: list[str] = []
    engine = connect(servers, tmp_path, messages)
    engine.load_weights(WEIGHTS, 1)
    for server in servers:
        server.seconds = 0.3
    submit(engine, range(12))
    until(lambda: len(servers[0].prompts) == len(servers[1].prompts) == 6)
    lost = servers[1].prompts
    servers[1].kill()
    done = collect(engine, 12)
    assert [completion.session for completion in done] == list(range(12))
    assert {completion.weight_version for completion in done} == {1}
    assert sorted(servers[0].prompts[6:]) == sorted(lost), "the same prompt ids and seeds"
    (line,) = messages
    assert line.startswith(f"engine {servers[1].url} is lost")
    assert line.endswith("its requests go to the other server")
    servers[0].seconds = 0.0
    engine.load_weights(WEIGHTS, 2)  # goes on without it
    submit(engine, range(4))
    assert {completion.weight_version for completion in collect(engine, 4)} == {2}
    engine.close()


def test_a_server_that_is_back_has_the_current_weights_and_gets_requests_again(
    servers: list[FakeVllm], tmp_path: Path
) -> None:
    messages: list[str] = []
    engine = connect(servers, tmp_path, messages)
    engine.load_weights(WEIGHTS, 1)
    servers[1].kill()
    submit(engine, range(6))
    collect(engine, 6)
    engine.load_weights(WEIGHTS, 2)
    servers[1] = FakeVllm(servers[1].server_port)
    until(lambda: any("is back" in message for message in messages))
    assert servers[1].label == servers[0].label
    submit(engine, range(6, 12))
    assert {completion.weight_version for completion in collect(engine, 6)} == {2}
    assert len(servers[1].prompts) == 3
    assert [f"engine {servers[1].url} is" in message for message in messages] == [True, True]
    engine.close()


def test_a_server_that_hangs_is_left_out(servers: list[FakeVllm], tmp_path: Path) -> None:
    """Its connections stay open."""
    messages: list[str] = []
    engine = connect(servers, tmp_path, messages, patience=0.5)
    engine.load_weights(WEIGHTS, 1)
    servers[0].hangs = True
    submit(engine, range(4))
    assert len(collect(engine, 4)) == 4
    assert f"engine {servers[0].url} is lost" in messages[0]
    engine.close()


def test_a_server_lost_at_a_hand_over_gets_the_weights_later(
    servers: list[FakeVllm], tmp_path: Path
) -> None:
    messages: list[str] = []
    engine = connect(servers, tmp_path, messages)
    servers[0].kill()
    engine.load_weights(WEIGHTS, 5)
    assert "at a hand-over; its requests go to the other server" in messages[0]
    submit(engine, range(4))
    assert {completion.weight_version for completion in collect(engine, 4)} == {5}
    servers[0] = FakeVllm(servers[0].server_port)
    until(lambda: servers[0].label == servers[1].label)
    engine.close()


@pytest.mark.parametrize("again", ["by the same run", "by a run that is resumed or overwritten"])
def test_a_version_that_is_handed_over_again_is_loaded_again(
    servers: list[FakeVllm], tmp_path: Path, again: str
) -> None:
    """The version says nothing of the weights: a run goes back to its best step, or starts anew."""
    messages: list[str] = []
    engine = connect(servers, tmp_path, messages)
    engine.load_weights(WEIGHTS, 5)
    if again != "by the same run":
        engine.close()
        engine = connect(servers, tmp_path, messages)
    servers[0].drops = ["/collective_rpc"]
    engine.load_weights({"head": torch.zeros(2)}, 5)
    until(lambda: any("is back" in message for message in messages))
    loads = [[path for path, _ in server.calls].count("/collective_rpc") for server in servers]
    assert loads == [2, 2]
    assert servers[0].label == servers[1].label
    submit(engine, range(4))
    assert {completion.weight_version for completion in collect(engine, 4)} == {5}
    engine.close()


def test_all_processes_have_the_label_of_the_first(servers: list[FakeVllm], tmp_path: Path) -> None:
    drawn: list[str] = []

    def gather(own: str) -> list[str]:
        drawn.append(own)
        return drawn

    groups = [ProcessGroup(rank, 2, gather=gather) for rank in range(2)]
    engines = [connect(servers, tmp_path, [], processes=group) for group in groups]
    assert len(set(drawn)) == 2
    assert len({engine._label(3) for engine in engines}) == 1
    for engine in engines:
        engine.close()


def test_without_any_server_it_waits_and_then_says_how_to_go_on(
    servers: list[FakeVllm], tmp_path: Path
) -> None:
    engine = connect(servers, tmp_path, [], patience=0.3)
    engine.load_weights(WEIGHTS, 1)
    for server in servers:
        server.kill()
    submit(engine, range(2))
    with pytest.raises(RemoteServiceError, match=r"server responds, waited 0.3 s") as raised:
        collect(engine, 2)
    assert all(server.url in str(raised.value) for server in servers)
    assert "--resume" in str(raised.value)
    engine.close()


def test_one_that_is_back_in_time_is_enough(servers: list[FakeVllm], tmp_path: Path) -> None:
    engine = connect(servers, tmp_path, [], patience=10)
    engine.load_weights(WEIGHTS, 1)
    for server in servers:
        server.kill()
    submit(engine, range(3))
    threading.Timer(0.2, lambda: servers.append(FakeVllm(servers[0].server_port))).start()
    assert {completion.weight_version for completion in collect(engine, 3)} == {1}
    engine.close()


def test_a_slow_server_gets_fewer_requests(servers: list[FakeVllm], tmp_path: Path) -> None:
    """Whoever is free takes the next one, also of another process's share."""
    engine = connect(servers, tmp_path, [], processes=ProcessGroup(1, 2))
    servers[0].label = servers[1].label = engine._label(0)
    servers[0].seconds, servers[1].seconds = 0.2, 0.01
    waiting, running, done = list(range(30)), 0, 0
    while done < 30:
        while waiting and running < 4:
            submit(engine, range(waiting[0], waiting.pop(0) + 1))
            running += 1
        finished = len(engine.step())
        running, done = running - finished, done + finished
    assert len(servers[1].prompts) > 3 * len(servers[0].prompts) > 0
    engine.close()


def chosen(group: ServerGroup, sessions: range) -> list[str | None]:
    urls = []
    for session in sessions:
        url = group.choose(session)
        if url is not None:
            group.running[url] += 1
        urls.append(url)
    return urls


def test_a_session_stays_until_its_server_has_far_more_to_do() -> None:
    async def check() -> None:
        group = ServerGroup(dict.fromkeys("abc"), patience=1, log=print)  # type: ignore[arg-type]
        assert chosen(group, range(6)) == ["a", "b", "c", "a", "b", "c"]
        group.running.clear()
        assert chosen(group, range(6)) == ["a", "b", "c", "a", "b", "c"], "where its prefix is"
        group.running.update({"a": MOVES_ABOVE, "b": 4})
        assert group.choose(0) == "a"
        group.running.update({"a": 4, "c": -1})
        assert group.choose(0) == "c", "its prefix is computed again"
        assert group.choose(0) == "c"
        group.forget(0)
        group.running.update({"c": 99})
        assert group.choose(0) == "b"

    asyncio.run(check())
