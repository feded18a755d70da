"""Which servers and training processes a launch starts, on which node and GPUs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.training.launch.nodes.cluster_plan import (
    ClusterPlan,
    Nodes,
    environment,
    plan_cluster,
    python_of,
)
from tspo_cli.training.problems import problems

ENGINE = ("rollout.engine=vllm",)


def plan(*settings: str, nodes: int = 1, gpus: int = 8) -> ClusterPlan:
    hosts = tuple(f"node{number}" for number in range(nodes))
    return plan_cluster(load_config(["tiny/tspo"], settings), Nodes(hosts, gpus, 9000))


def value(arguments: tuple[str, ...], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_without_servers_every_gpu_trains() -> None:
    made = plan(gpus=4, nodes=2)
    assert (made.servers, made.settings) == ((), ())
    assert (made.training_nodes, made.processes, made.gpus) == (2, 4, (0, 1, 2, 3))
    assert plan("train.processes=3", gpus=0).processes == 3


def test_servers_take_the_gpus_that_they_are_given() -> None:
    made = plan(
        *ENGINE,
        "launch.retriever=first",
        "launch.retriever_gpus=[7]",
        "launch.engines=2",
        "launch.engine_gpus=[3, 4, 5, 6]",
    )
    retriever, first, second = made.servers
    assert (retriever.gpus, first.gpus, second.gpus, made.gpus) == ((7,), (3, 4), (5, 6), (0, 1, 2))
    assert made.processes == 3
    assert retriever.arguments[:2] == ("serve", "runs/demo/index")
    assert value(first.arguments, "--tensor-parallel") == "2"
    assert value(first.arguments, "--dtype") == "bfloat16", "as the learner on a GPU"
    assert value(second.arguments, "--sequences") == str(64 * 2), "three clients, two servers"
    assert {server.url for server in made.servers} == {
        f"http://node0:{port}" for port in (9001, 9002, 9003)
    }
    assert made.settings == (
        "retriever.index=",
        'retriever.url=["http://node0:9001"]',
        'vllm.url=["http://node0:9002", "http://node0:9003"]',
    )


@pytest.mark.parametrize(("where", "nodes"), [("first", [0]), ("each", [0, 1, 2])])
def test_retrievers_are_on_the_nodes_that_are_named(where: str, nodes: list[int]) -> None:
    made = plan(f"launch.retriever={where}", nodes=3, gpus=2)
    assert [server.node for server in made.servers] == nodes
    assert len({server.url for server in made.servers}) == len(nodes)


def test_nodes_of_engines_do_not_train() -> None:
    made = plan(
        *ENGINE, "launch.engines=4", "launch.engine_nodes=1", "launch.retriever=each", nodes=3
    )
    assert (made.training_nodes, made.processes, len(made.gpus)) == (2, 8, 8)
    assert [server.node for server in made.servers] == [0, 1, 2, 2, 2, 2]
    assert [server.gpus for server in made.servers_of(2)] == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_a_served_index_is_searched_as_the_experiment_says() -> None:
    search = ["retriever.search.nprobe=32", "retriever.search.reranker=a/model"]
    config = load_config(["tiny/tspo"], [*search, "launch.retriever=first"])
    made = plan_cluster(config, Nodes(("127.0.0.1",), 0, 9000))
    (server,) = made.servers
    assert {"nprobe=32", "reranker=a/model"} < set(server.arguments)
    changed = load_config(["tiny/tspo"], [*search, "launch.retriever=first", *made.settings])
    assert not changed.retriever.search.given()
    assert list(problems(changed)) == []


def test_only_a_launch_of_several_nodes_listens_to_others() -> None:
    assert (
        value(plan("launch.retriever=first", nodes=2).servers[0].arguments, "--host") == "0.0.0.0"
    )
    for hosts in (("127.0.0.1",), ("127.0.0.1", "127.0.0.2")):
        config = load_config(["tiny/tspo"], ["launch.retriever=each"])
        servers = plan_cluster(config, Nodes(hosts, 0, 9000)).servers
        assert [value(server.arguments, "--host") for server in servers] == list(hosts)


def test_a_node_of_engines_has_each_gpu_once() -> None:
    nodes = [*ENGINE, "launch.engines=2", "launch.engine_nodes=1"]
    with pytest.raises(InvalidInputError, match="two servers"):
        plan(*nodes, "launch.engine_gpus=[1, 1]", nodes=2)
    retriever = ["launch.retriever=first", "launch.retriever_gpus=[1]"]
    made = plan(*nodes, *retriever, "launch.engine_gpus=[0, 1]", nodes=2)
    assert [server.gpus for server in made.servers] == [(1,), (0,), (1,)]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["launch.retriever=first", "launch.retriever_gpus=[8]"], "GPU 8 is named"),
        (["launch.retriever=first", "launch.retriever_gpus=[-1]"], "GPU -1 is named"),
        (["launch.retriever_gpus=[1]"], "no retriever is launched"),
        (["launch.retriever=first", "retriever.index="], "retriever.index, which is not set"),
        ([*ENGINE, "launch.engines=1"], "0 GPUs for 1 engine"),
        ([*ENGINE, "launch.engines=2", "launch.engine_gpus=[1,2,3]"], "3 GPUs for 2 engines"),
        ([*ENGINE, "launch.engines=2", "launch.engine_gpus=[1,1]"], "two servers"),
        (["launch.retriever=first", "launch.retriever_gpus=[1,1]"], "two servers"),
        (["launch.engines=1", "launch.engine_gpus=[1]"], "rollout.engine"),
        ([*ENGINE, "launch.engines=1", "launch.engine_nodes=1"], "one node has to train"),
        (["launch.engine_nodes=0", "launch.processes=9"], "8 GPUs for training"),
        (
            [*ENGINE, "launch.engines=8", "launch.engine_gpus=[0,1,2,3,4,5,6,7]"],
            "0 GPUs for training",
        ),
        (
            [*ENGINE, "launch.engines=1", "launch.engine_gpus=[1]", 'vllm.url=["http://a:1"]'],
            "remove one",
        ),
    ],
)
def test_what_the_nodes_do_not_have_is_refused(settings: list[str], problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        plan(*settings)


def test_the_environment_is_one_that_has_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[plan_cluster.__module__]
    monkeypatch.setattr(module, "is_installed", lambda name: False)
    assert environment(load_config(["tiny/tspo"])) == Path(sys.prefix)
    assert environment(load_config(["tiny/tspo"], ENGINE)) == Path(".venv-vllm")
    served = [*ENGINE, 'vllm.url=["http://a:1"]']
    assert environment(load_config(["tiny/tspo"], served)) == Path(sys.prefix)
    named = [f"launch.environment={json.dumps(str(tmp_path))}"]
    assert environment(load_config(["tiny/tspo"], named)) == tmp_path
    with pytest.raises(MissingResourceError, match="no bin/python"):
        python_of(tmp_path)
    monkeypatch.setattr(module, "is_installed", lambda name: True)
    assert environment(load_config(["tiny/tspo"], ENGINE)) == Path(sys.prefix)
