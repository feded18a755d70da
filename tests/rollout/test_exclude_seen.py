"""A rollout with rollout.exclude_seen gets no passage twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from transformers import PreTrainedTokenizerFast

from tests.rollout.test_agent import ANSWER, SEARCH, ScriptedEngine, kinds, settings, tasks_for
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import RolloutConfig
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult
from tspo_cli.rollout.agent import Agent, run_agents
from tspo_cli.rollout.branch import Branch
from tspo_cli.rollout.limit_warnings import depth_warnings
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.announce import _lines
from tspo_cli.training.rl.rl_step import agent_settings

PASSAGES = [
    Hit("1", '"Rimu"\na river', 5.0),
    Hit("2", '"Muko"\na town', 4.0),
    Hit("copy", '"Rimu"\na river', 3.0),
    Hit("3", '"Bako"\na lake', 2.0),
    Hit("4", '"Tarn"\na hill', 1.0),
]


@dataclass
class RankedRetriever:
    """Gives the same passages for every query."""

    blocking: bool
    asked: list[int] = field(default_factory=list)

    def describe(self) -> RetrieverInfo:
        return RetrieverInfo()

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        self.asked.append(k)
        return [SearchResult(tuple(PASSAGES[:k])) for _ in queries]


@pytest.fixture(scope="module")
def protocol(tokenizer: PreTrainedTokenizerFast) -> SearchProtocol:
    return SearchProtocol.from_config(tokenizer, RolloutConfig(prompt="short"))


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    ("exclude_seen", "expected", "depth"),
    [(False, [["1", "2"], ["1", "2"], ["1", "2"]], 2), (True, [["1", "2"], ["3", "4"], []], 8)],
)
def test_no_passage_comes_twice(
    exclude_seen: bool,
    expected: list[list[str]],
    depth: int,
    blocking: bool,
    protocol: SearchProtocol,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    scripts = {sample: [SEARCH, SEARCH, SEARCH, ANSWER] for sample in range(2)}
    retriever = RankedRetriever(blocking)
    options = settings(max_searches=3, exclude_seen=exclude_seen)
    agent = Agent(ScriptedEngine(tokenizer, scripts), retriever, protocol, options)
    for trajectory in run_agents(tasks_for(protocol, 2), agent):
        assert [[hit.id for hit in turn.hits] for turn in trajectory.turns[:-1]] == expected
        assert kinds(trajectory) == ["search"] * 3 + ["answer"]
        assert not trajectory.failed
        shown = "".join(turn.feedback for turn in trajectory.turns)
        assert shown.count("a river") == (1 if exclude_seen else 3)
    assert set(retriever.asked) == {depth}


def test_passages_of_shared_turns_were_seen(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    options = settings(max_searches=3, exclude_seen=True)
    retriever = RankedRetriever(False)
    whole, task = tasks_for(protocol, 2)
    agent = Agent(ScriptedEngine(tokenizer, {0: [SEARCH, ANSWER]}), retriever, protocol, options)
    (first,) = run_agents([whole], agent)
    agent = replace(agent, engine=ScriptedEngine(tokenizer, {0: [SEARCH, ANSWER]}))
    branch = replace(task, branch=Branch((0,), 1, 1, 0.5), shared_turns=first.turns[:1])
    (second,) = run_agents([branch], agent)
    assert [[hit.id for hit in turn.hits] for turn in second.turns] == [["1", "2"], ["3", "4"], []]


def test_training_and_exported_model_keep_the_choice() -> None:
    config = load_config([], ["kind=rl", "rollout.exclude_seen=true"])
    assert agent_settings(config).exclude_seen
    assert any("no passage twice" in line for line in _lines(config))
    assert not any("no passage twice" in line for line in _lines(load_config([], ["kind=rl"])))
    assert config.rollout.model_dump(mode="json")["exclude_seen"] is True


@dataclass
class Limited(RankedRetriever):
    """Gives `most` passages of a search at most; with `refuses` it refuses to give more."""

    most: int = 2
    refuses: bool = False

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        if self.refuses and k > self.most:
            self.asked.append(k)
            return [SearchResult(error="status 422: topk: at most 2") for _ in queries]
        return super().search(queries, min(k, self.most))


@pytest.mark.parametrize(
    ("retriever", "settings", "said"),
    [
        (Limited(True), ["rollout.exclude_seen=true"], "gives 2 at most"),
        (Limited(True, refuses=True), ["rollout.exclude_seen=true"], "topk: at most 2"),
        (
            Limited(True, most=3),
            ["rollout.exclude_seen=true", "rollout.max_searches=1"],
            "gives 3 at most",
        ),
        (Limited(True, most=5), ["rollout.exclude_seen=true", "rollout.max_searches=1"], ""),
        (Limited(True, most=0), ["rollout.exclude_seen=true"], ""),
        (Limited(True), ["rollout.exclude_seen=true", "rollout.max_searches=0"], ""),
        (Limited(False), ["rollout.exclude_seen=true"], ""),
        (Limited(True), [], ""),
    ],
)
def test_a_retriever_that_gives_too_few_for_later_searches_is_named(
    retriever: Limited, settings: list[str], said: str
) -> None:
    config = load_config([], ["retriever.k=2", *settings])
    found = list(
        depth_warnings(config, retriever, ["a?", "b?"], searches=config.rollout.max_searches)
    )
    assert len(found) == bool(said)
    if said:
        assert said in found[0]
        assert f"{2 * (config.rollout.max_searches + 1)} passages" in found[0]
    else:
        assert len(retriever.asked) <= 1
