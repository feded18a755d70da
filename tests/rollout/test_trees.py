"""Trees of rollouts: who branches where, what is shared, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from tests.rollout.test_agent import (
    ANSWER,
    SEARCH,
    MemoryRetriever,
    ScriptedEngine,
    favour_tags,
    protocol,
    settings,
    tasks_for,
)
from tspo_cli.rollout.agent import Agent, RolloutHooks, Task, run_agents
from tspo_cli.rollout.branch import Branch
from tspo_cli.rollout.engines.hf import hf_engine
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory, Turn
from tspo_cli.rollout.trees import (
    Forest,
    TreeSettings,
    distinct_turns,
    sampled_tokens,
    token_budget,
)

__all__ = ["protocol"]


def rooted(tasks: Sequence[Task]) -> list[Task]:
    return [replace(task, branch=Branch()) for task in tasks]


def turn(logprob: float, tokens: int = 4, kind: Any = "search") -> Turn:
    return Turn((1,) * tokens, (logprob,) * tokens, "stop", kind, "text", feedback_ids=(2, 3))


def whole(protocol: SearchProtocol, sample: int, *turns: Turn) -> Trajectory:
    task = tasks_for(protocol, sample + 1)[sample]
    return Trajectory(task.group, sample, task.question, task.prompt_ids, turns, branch=Branch())


def grown(forest: Forest, rollouts: Sequence[Trajectory]) -> list[Task]:
    return [task for rollout in rollouts for task in forest.grow(rollout)]


def after(task: Task, *turns: Turn) -> Trajectory:
    """The rollout of a task that samples these turns."""
    every = (*task.shared_turns, *turns)
    return Trajectory(
        task.group, task.sample, task.question, task.prompt_ids, every, branch=task.branch
    )


def test_a_branch_copies_what_comes_before_it(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    """One root with two searches; the second search, then the answer, are sampled anew."""
    forest = Forest(TreeSettings("random", 4, seed=0, roots=1, turns=2, budget="rollouts"))
    scripts = {0: [SEARCH, SEARCH, ANSWER]} | {session: [ANSWER] for session in (1, 2, 3)}
    engine = ScriptedEngine(tokenizer, scripts)
    done = run_agents(
        rooted(tasks_for(protocol, 1)),
        Agent(engine, MemoryRetriever(), protocol, settings()),
        RolloutHooks(expand=forest.grow),
    )
    assert [rollout.sample for rollout in done] == [0, 1, 2, 3]
    assert done[0].path == (0, 0, 0)
    assert sorted(rollout.path for rollout in done[1:3]) == [(0, 0, 2), (0, 1)] or sorted(
        rollout.path for rollout in done[1:3]
    ) == [(0, 0, 1), (0, 2)]
    for rollout in done[1:]:
        shared = len(rollout.turns) - 1
        assert rollout.turns[:shared] == done[0].turns[:shared]
        assert rollout.own_turns == rollout.turns[shared:]
        request = next(one for one in engine.seen if one.session == rollout.sample)
        prefix = Trajectory(*_start(rollout), rollout.turns[:shared]).token_ids()
        assert list(request.token_ids) == prefix
        assert request.prefix_of == 0
        # A branch is trained on whole: its tokens are those of a sequence of its own.
        assert rollout.token_ids()[: len(prefix)] == prefix
    seeds = {request.seed for request in engine.seen}
    assert len(seeds) == len(engine.seen)
    assert sorted(engine.released) == [0, 1, 2, 3]


def _start(rollout: Trajectory) -> tuple[Any, ...]:
    return rollout.group, rollout.sample, rollout.question, rollout.prompt_ids


def test_the_budget_is_that_of_whole_rollouts_in_sampled_tokens(protocol: SearchProtocol) -> None:
    """Roots of 12 and 8 tokens: 4 whole rollouts cost 40, and 20 are used. Branches of 8 bring it
    to 36; a third one would end further from 40. One of 4 brings it to 40.
    """
    options = TreeSettings("uncertain", 4, seed=0, roots=2, turns=1, branches=9)
    forest = Forest(options)
    roots = [
        whole(protocol, 0, turn(-1), turn(-1, tokens=8, kind="answer")),
        whole(protocol, 1, turn(-1), turn(-0.5, kind="answer")),
    ]
    first = grown(forest, roots)
    assert [task.branch.owners for task in first] == [(0,), (0,)]  # type: ignore[union-attr]
    ended = [after(task, turn(-0.1, tokens=8, kind="answer")) for task in first]
    (last,) = grown(forest, ended)
    assert last.branch == Branch((1,), 2, 4, 0.5)
    ended.append(after(last, turn(-0.1, kind="answer")))
    assert grown(forest, ended[-1:]) == []
    assert sum(sampled_tokens(rollout.own_turns) for rollout in (*roots, *ended)) == 40
    capped = Forest(replace(options, max_rollouts=3))
    assert len(grown(capped, roots)) == 1


def test_rollouts_that_broke_off_say_nothing_about_the_length_of_whole_ones(
    protocol: SearchProtocol,
) -> None:
    full = whole(protocol, 0, turn(-1), turn(-1, tokens=8, kind="answer"))
    failed = whole(protocol, 1, replace(turn(-1), search_error="no shard"))
    late = replace(whole(protocol, 2, turn(-1)), late=True)
    refused = replace(whole(protocol, 3, turn(-1, tokens=2)), refused="too long")
    assert token_budget([full, failed, late, refused], 4) == (12, 48)
    assert token_budget([failed, late, refused], 3) == (pytest.approx(10 / 3), pytest.approx(10))


@pytest.mark.parametrize(("most", "wanted"), [(0, 4), (3, 3)])
def test_where_nothing_was_sampled_rollouts_are_counted(
    protocol: SearchProtocol, most: int, wanted: int
) -> None:
    forest = Forest(TreeSettings("uncertain", 4, seed=0, max_rollouts=most))
    rollouts = [replace(whole(protocol, number), refused="busy") for number in (0, 1)]
    tasks = grown(forest, rollouts)
    while tasks:
        ended = [replace(after(task), refused="busy") for task in tasks]
        rollouts += ended
        tasks = grown(forest, ended)
    assert len(rollouts) == wanted


def test_a_shared_turn_counts_once_without_the_rollout_that_sampled_it(
    protocol: SearchProtocol,
) -> None:
    shared, own = turn(-1), turn(-1, tokens=1, kind="answer")
    branches = [
        replace(whole(protocol, number, shared, own), branch=Branch((0,))) for number in (1, 2)
    ]
    assert sampled_tokens(distinct_turns(branches)) == 4 + 1 + 1
    assert sampled_tokens(distinct_turns([whole(protocol, 0, shared, own), *branches])) == 4 + 3


def test_the_most_uncertain_turns_are_expanded_once_each(protocol: SearchProtocol) -> None:
    """Entropies by turn: 3, 0.5, 2, 1 and 1, 2.5. The first turn cannot branch."""
    forest = Forest(TreeSettings("uncertain", 20, seed=0, turns=2, budget="rollouts"))
    roots = [
        whole(protocol, 0, turn(-3), turn(-0.5), turn(-2), turn(-1, kind="answer")),
        whole(protocol, 1, turn(-1), turn(-2.5, kind="answer")),
    ]
    first = grown(forest, roots)
    assert [task.branch for task in first] == [
        Branch((1,), 1, 4, 2.5),
        Branch((0, 0), 2, 4, 2.0),
    ]
    ended = [after(first[0], turn(-9, kind="answer")), after(first[1], turn(-0.1, kind="answer"))]
    second = grown(forest, ended)
    assert [(task.branch.owners, task.branch.uncertainty) for task in second] == [  # type: ignore[union-attr]
        ((1,), 9.0),
        ((0, 0, 0), 1.0),
    ]
    assert [task.sample for task in first + second] == [2, 3, 4, 5]


def test_arpo_branches_where_the_entropy_rises_after_a_search(protocol: SearchProtocol) -> None:
    options = TreeSettings("after_search", 9, seed=0, roots=1, turns=3, least_gain=0.5)
    root = whole(protocol, 0, turn(-1), turn(-1.4), turn(-1.6), turn(-0.2, kind="answer"))
    tasks = grown(Forest(options), [root])
    assert [task.branch for task in tasks] == [Branch((0, 0), 1, 1, pytest.approx(0.6))]
    # Nothing rises by 0.7: a further whole rollout is sampled in place of a branch.
    (task,) = grown(Forest(replace(options, least_gain=0.7)), [root])
    assert (task.branch, task.shared_turns, task.sample) == (Branch(), (), 1)


def test_the_entropy_of_the_first_tokens_alone(protocol: SearchProtocol) -> None:
    flat, late = turn(-1), replace(turn(-1), logprobs=(-0.1, -0.1, -9.0, -9.0))
    root = whole(protocol, 0, turn(-1), flat, late, turn(-0.5, kind="answer"))
    for tokens, wanted in ((0, (0, 0)), (2, (0,))):
        options = TreeSettings("uncertain", 9, 0, roots=1, turns=1, entropy_tokens=tokens)
        (task,) = grown(Forest(options), [root])
        assert task.branch is not None
        assert task.branch.owners == wanted


def test_random_turns_depend_on_the_seed_and_on_nothing_else(protocol: SearchProtocol) -> None:
    root = whole(protocol, 0, *[turn(-1)] * 5, turn(-1, kind="answer"))

    def drawn(seed: int) -> list[int]:
        options = TreeSettings("random", 3, seed, roots=1, turns=1, branches=1)
        tasks = grown(Forest(options), [root])
        for task in tasks:
            assert task.branch is not None
            assert (task.branch.rank, task.branch.candidates) == (0, 5), "nothing was ranked"
        return [len(task.shared_turns) for task in tasks]

    assert drawn(3) == drawn(3)
    assert {found for seed in range(20) for found in drawn(seed)} == {1, 2, 3, 4, 5}


def test_nothing_branches_from_failures_or_before_a_search(protocol: SearchProtocol) -> None:
    failed = whole(protocol, 0, turn(-1), replace(turn(-1), search_error="no shard"))
    direct = whole(protocol, 1, turn(-1, kind="invalid"), turn(-1, kind="answer"))
    for task in grown(Forest(TreeSettings("uncertain", 5, 0)), [failed, direct]):
        assert task.branch == Branch(), "whole rollouts take the budget"


def test_branches_take_the_prefix_from_the_engines_cache(
    protocol: SearchProtocol,
    tokenizer: PreTrainedTokenizerFast,
    model: Qwen2ForCausalLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same rollouts with and without it, and fewer tokens are encoded with it."""
    favour_tags(model, tokenizer)
    runs, encoded = [], []
    for keeps in (True, False):
        if not keeps:
            monkeypatch.setattr(hf_engine, "copy_prefix", lambda *_: None)
        engine = TransformersEngine(model, tokenizer, batch_size=32, max_context=400)
        count = [0]

        def prefill(
            rows: Any, engine: TransformersEngine = engine, count: list[int] = count
        ) -> None:
            missing = engine.table.total[rows] - engine.table.cached[rows]
            count[0] += int(missing.clip(max=engine.columns).sum())
            TransformersEngine._prefill(engine, rows)

        monkeypatch.setattr(engine, "_prefill", prefill)
        forest = Forest(TreeSettings("random", 12, seed=0, roots=4, turns=4, budget="rollouts"))
        options = replace(settings(max_searches=3).sampling, max_new_tokens=12)
        runs.append(
            run_agents(
                rooted(tasks_for(protocol, 4)),
                Agent(
                    engine,
                    MemoryRetriever(),
                    protocol,
                    replace(settings(max_searches=3), sampling=options),
                ),
                RolloutHooks(expand=forest.grow),
            )
        )
        encoded.append(count[0])
    assert [rollout.token_ids() for rollout in runs[0]] == [
        rollout.token_ids() for rollout in runs[1]
    ]
    branches = [rollout for rollout in runs[0] if rollout.branch and rollout.branch.owners]
    assert len(branches) >= 4
    for one, other in zip(runs[0], runs[1], strict=True):
        assert one.sampled_logprobs() == pytest.approx(other.sampled_logprobs(), abs=1e-4)
    shared = sum(
        len(Trajectory(*_start(one), one.turns[: len(one.branch.owners)]).token_ids())  # type: ignore[union-attr]
        for one in branches
    )
    assert encoded[1] - encoded[0] == shared, "every shared token is encoded once"
