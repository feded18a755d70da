"""The agent loop: budgets, feedback, failures, and nobody waits for somebody else's passages."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import RolloutConfig
from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult
from tspo_cli.rollout.agent import (
    Agent,
    AgentSettings,
    RolloutHooks,
    Task,
    run_agents,
)
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.protocol import STOP_STRINGS, SearchProtocol, answer_action, search_action
from tspo_cli.rollout.records import rollout_record
from tspo_cli.rollout.trajectory import GroupId, Trajectory, request_seed
from tspo_cli.training.core.sequences import policy_sequence
from tspo_cli.training.rl.rl_step import agent_settings

SEARCH, ANSWER = search_action("who", "river"), answer_action("it is", "Bako")


@dataclass
class ScriptedEngine:
    """Speaks the scripted texts of each session, one turn per step."""

    tokenizer: PreTrainedTokenizerFast
    scripts: Mapping[int, Sequence[str]]
    finish_reason: str = "stop"
    weight_version: int = 0
    queue: list[GenerationRequest] = field(default_factory=list)
    turns: dict[int, int] = field(default_factory=dict)
    seen: list[GenerationRequest] = field(default_factory=list)
    released: list[int] = field(default_factory=list)

    def submit(self, request: GenerationRequest) -> None:
        self.queue.append(request)
        self.seen.append(request)

    def step(self) -> list[Completion]:
        requests, self.queue = self.queue, []
        return [self._complete(request.session) for request in requests]

    def _complete(self, session: int) -> Completion:
        turn = self.turns.get(session, 0)
        self.turns[session] = turn + 1
        ids = tuple(
            self.tokenizer(self.scripts[session][turn], add_special_tokens=False)["input_ids"]
        )
        return Completion(session, ids, (-0.5,) * len(ids), self.finish_reason, self.weight_version)  # type: ignore[arg-type]

    def release(self, session: int) -> None:
        self.released.append(session)

    def sleep(self) -> None: ...

    def close(self) -> None: ...

    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None:
        self.weight_version = version

    def different_weight(self, weights: Mapping[str, torch.Tensor]) -> str | None:
        return None


@dataclass
class MemoryRetriever:
    """Always the same passages, on the spot."""

    blocking: bool = False
    batches: list[list[str]] = field(default_factory=list)

    def describe(self) -> RetrieverInfo:
        return RetrieverInfo()

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        self.batches.append(list(queries))
        hits = (Hit("7", '"Rimu"\na river in Bako', 2.0), Hit("8", '"Muko"\na town', 1.0))
        return [
            SearchResult(error="no such shard") if query == "fail" else SearchResult(hits[:k])
            for query in queries
        ]


@dataclass
class GatedRetriever:
    """Holds back the query "river" until its gate opens; a real thread waits."""

    gate: threading.Event
    blocking: bool = True

    def describe(self) -> RetrieverInfo:
        return RetrieverInfo()

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        if "river" in queries:
            self.gate.wait(timeout=20)
        return [SearchResult((Hit("1", f'"{query}"\nfound', 1.0),)) for query in queries]


@pytest.fixture(scope="module")
def protocol(tokenizer: PreTrainedTokenizerFast) -> SearchProtocol:
    return SearchProtocol.from_config(tokenizer, RolloutConfig(prompt="short"))


def tasks_for(protocol: SearchProtocol, count: int) -> list[Task]:
    ids = tuple(protocol.prompt_ids("who is Bako?"))
    question = Question("q", "who is Bako?", ("Bako",), "world")
    return [
        Task(
            question,
            GroupId("world", "q", 0),
            sample,
            ids,
            request_seed(0, GroupId("world", "q", 0), sample),
        )
        for sample in range(count)
    ]


def settings(max_searches: int = 2, **options: object) -> AgentSettings:
    sampling = Sampling(max_new_tokens=40, stop=STOP_STRINGS)
    return AgentSettings(sampling, max_searches, k=2, **options)  # type: ignore[arg-type]


def kinds(trajectory: Trajectory) -> list[str]:
    return [turn.kind for turn in trajectory.turns]


def test_search_then_answer(protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = ScriptedEngine(tokenizer, {0: [SEARCH, ANSWER]})
    (trajectory,) = run_agents(
        tasks_for(protocol, 1), Agent(engine, MemoryRetriever(), protocol, settings())
    )
    search, answer = trajectory.turns
    assert (search.kind, search.query, [hit.id for hit in search.hits]) == (
        "search",
        "river",
        ["7", "8"],
    )
    assert search.feedback.startswith(
        "\n\n<information>Doc 1(Title: Rimu) a river in Bako\nDoc 2(Title: Muko)"
    )
    assert (answer.kind, trajectory.answer, answer.feedback_ids) == ("answer", "Bako", ())
    # What the engine saw before the second turn is exactly what the trajectory keeps.
    assert [*engine.seen[1].token_ids, *answer.action_ids] == trajectory.token_ids()
    assert (
        len(trajectory.turn_of_token())
        == len(trajectory.sampled_logprobs())
        == len(trajectory.token_ids())
    )
    assert engine.released == [0]


def test_searches_of_many_trajectories_arrive_as_one_batch(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    retriever = MemoryRetriever()
    scripts = {session: [SEARCH, ANSWER] for session in range(5)}
    done = run_agents(
        tasks_for(protocol, 5),
        Agent(ScriptedEngine(tokenizer, scripts), retriever, protocol, settings()),
    )
    assert retriever.batches == [["river"] * 5]
    assert [trajectory.sample for trajectory in done] == list(range(5))


def test_the_turn_after_the_budget_may_not_search(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = ScriptedEngine(tokenizer, {0: [SEARCH, SEARCH, SEARCH]})
    (trajectory,) = run_agents(
        tasks_for(protocol, 1), Agent(engine, MemoryRetriever(), protocol, settings(max_searches=2))
    )
    assert kinds(trajectory) == ["search", "search", "invalid"]
    assert (trajectory.answer, trajectory.searches, trajectory.turns[-1].feedback) == (None, 2, "")


def test_an_invalid_turn_is_corrected_and_spends_budget(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = ScriptedEngine(tokenizer, {0: [" river", "<search> </search>", ANSWER]})
    (trajectory,) = run_agents(
        tasks_for(protocol, 1), Agent(engine, MemoryRetriever(), protocol, settings(max_searches=2))
    )
    assert kinds(trajectory) == ["invalid", "invalid", "answer"]
    assert trajectory.turns[0].feedback == "\n\nit is invalid\n\n"
    assert trajectory.turns[1].query is None


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (0, ["invalid", "search", "invalid", "invalid", "answer"]),
        (1, ["invalid"]),
        (2, ["invalid", "search", "invalid", "invalid"]),
        (3, ["invalid", "search", "invalid", "invalid", "answer"]),
    ],
)
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_invalid_turns_in_a_row_end_a_rollout(
    limit: int,
    expected: list[str],
    finish_reason: str,
    protocol: SearchProtocol,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    nothing = " river" * 40  # as many tokens as a turn may have
    engine = ScriptedEngine(tokenizer, {0: [nothing, SEARCH, nothing, nothing, ANSWER]})
    engine.finish_reason = finish_reason
    agent = Agent(
        engine, MemoryRetriever(), protocol, settings(max_searches=4, max_invalid_turns=limit)
    )
    (trajectory,) = run_agents(tasks_for(protocol, 1), agent)
    invalid = "truncated" if finish_reason == "length" else "invalid"
    assert kinds(trajectory) == [invalid if kind == "invalid" else kind for kind in expected]
    assert trajectory.turns[-1].feedback == ""
    assert not trajectory.failed
    assert engine.released == [0]


def test_training_takes_the_limits_of_its_experiment() -> None:
    config = load_config([], ["kind=rl", "rollout.max_invalid_turns=2", "rollout.max_searches=5"])
    taken = agent_settings(config)
    assert (taken.max_invalid_turns, taken.max_searches) == (2, 5)


def test_without_a_retriever_there_is_one_turn(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = ScriptedEngine(tokenizer, {0: [SEARCH], 1: [ANSWER]})
    done = run_agents(
        tasks_for(protocol, 2), Agent(engine, None, protocol, settings(max_searches=0))
    )
    assert [kinds(trajectory) for trajectory in done] == [["invalid"], ["answer"]]
    with pytest.raises(ValueError, match="no retriever"):
        run_agents(tasks_for(protocol, 1), Agent(engine, None, protocol, settings(max_searches=1)))


def test_a_failed_search_ends_its_trajectory_alone(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    scripts = {0: [search_action("", "fail")], 1: [SEARCH, ANSWER]}
    failed, good = run_agents(
        tasks_for(protocol, 2),
        Agent(ScriptedEngine(tokenizer, scripts), MemoryRetriever(), protocol, settings()),
    )
    assert failed.failed
    assert failed.turns[0].search_error == "no such shard"
    assert failed.turns[0].feedback == ""
    assert not good.failed
    assert good.answer == "Bako"


def test_a_slow_search_holds_back_nobody_else(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    gate = threading.Event()
    finished: list[int] = []

    def on_finish(trajectory: Trajectory) -> None:
        finished.append(trajectory.sample)
        if len(finished) == 2:
            gate.set()

    town = search_action("", "town")
    # Session 0 waits at the gate, which opens only after the two others have searched and answered.
    scripts = {0: [SEARCH, ANSWER], 1: ["<think>", town, ANSWER], 2: ["<think>", town, ANSWER]}
    done = run_agents(
        tasks_for(protocol, 3),
        Agent(ScriptedEngine(tokenizer, scripts), GatedRetriever(gate), protocol, settings()),
        RolloutHooks(on_finish=on_finish),
    )
    assert set(finished[:2]) == {1, 2}
    assert finished[2] == 0
    assert not any(trajectory.failed for trajectory in done)


def test_a_search_past_its_deadline_is_a_failure(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    gate = threading.Event()
    scripts = {0: [SEARCH], 1: ["<think>", search_action("", "town"), ANSWER]}
    late, good = run_agents(
        tasks_for(protocol, 2),
        Agent(
            ScriptedEngine(tokenizer, scripts),
            GatedRetriever(gate),
            protocol,
            settings(turn_deadline=0.2),
        ),
    )
    gate.set()
    assert late.turns[0].search_error == "no answer within 0.2 s"
    assert good.answer == "Bako"


def test_a_rollout_past_its_deadline_is_ended_and_holds_back_nobody(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Session 0 waits for passages that come too late; its search alone would have had more
    time.
    """
    gate = threading.Event()
    scripts = {0: [SEARCH, ANSWER], 1: ["<think>", search_action("", "town"), ANSWER]}
    engine = ScriptedEngine(tokenizer, scripts)
    late, good = run_agents(
        tasks_for(protocol, 2),
        Agent(engine, GatedRetriever(gate), protocol, settings(trajectory_deadline=0.3)),
    )
    gate.set()
    assert (late.late, late.failed, late.turns[0].search_error) == (True, True, None)
    assert (good.failed, good.answer) == (False, "Bako")
    assert sorted(engine.released) == [0, 1]


def test_rollouts_can_be_given_up(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    stop = threading.Event()
    scripts = {0: [ANSWER], 1: [SEARCH, ANSWER]}
    engine = ScriptedEngine(tokenizer, scripts)
    done = run_agents(
        tasks_for(protocol, 2),
        Agent(engine, MemoryRetriever(), protocol, settings()),
        RolloutHooks(on_finish=lambda _: stop.set(), stop=stop),
    )
    assert [trajectory.sample for trajectory in done] == [0]
    assert sorted(engine.released) == [0, 1]


def test_a_full_context_ends_the_trajectory(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast, model: Qwen2ForCausalLM
) -> None:
    tasks = tasks_for(protocol, 1)
    engine = TransformersEngine(
        model, tokenizer, batch_size=1, max_context=len(tasks[0].prompt_ids) + 20
    )
    (trajectory,) = run_agents(
        tasks, Agent(engine, MemoryRetriever(), protocol, settings(max_searches=5))
    )
    assert kinds(trajectory)[-1] == "truncated"
    assert trajectory.turns[-1].feedback == ""
    assert len(trajectory.token_ids()) <= engine.max_context


def test_the_real_engine_end_to_end(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast, model: Qwen2ForCausalLM
) -> None:
    favour_tags(model, tokenizer)
    options = AgentSettings(
        Sampling(max_new_tokens=12, stop=STOP_STRINGS), max_searches=3, k=2, in_flight=6
    )
    runs = []
    for slots in (3, 6):
        engine = TransformersEngine(model, tokenizer, batch_size=slots, max_context=1024)
        runs.append(
            run_agents(tasks_for(protocol, 12), Agent(engine, MemoryRetriever(), protocol, options))
        )
    assert [trajectory.token_ids() for trajectory in runs[0]] == [
        trajectory.token_ids() for trajectory in runs[1]
    ]
    assert any(trajectory.searches for trajectory in runs[0])
    assert len({trajectory.turns[0].action_ids for trajectory in runs[0]}) > 1
    for trajectory in runs[0]:
        assert_sampled_by(model, trajectory)


def assert_sampled_by(model: Qwen2ForCausalLM, trajectory: Trajectory) -> None:
    """One plain forward pass over the trained sequence gives the log-probs of the engine."""
    sequence = policy_sequence(trajectory, [1.0] * len(trajectory.turns))
    ids = torch.tensor([sequence.token_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    logprobs = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])[:, 0]
    sampled = torch.tensor(sequence.weights[1:]) > 0
    engine = torch.tensor(sequence.old_logprobs[1:])
    torch.testing.assert_close(logprobs[sampled], engine[sampled], atol=1e-4, rtol=0)


CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize("after_eos", ["drop", "keep", "user_turn"])
def test_what_follows_an_end_of_sequence_token_is_what_is_trained(
    tokenizer: PreTrainedTokenizerFast, model: Qwen2ForCausalLM, after_eos: str
) -> None:
    favour_tags(model, tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().bias[tokenizer.eos_token_id] = 6.0
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = CHAT
    protocol = SearchProtocol.from_config(
        chatty, RolloutConfig.model_validate({"after_eos": after_eos})
    )
    options = AgentSettings(
        Sampling(max_new_tokens=12, stop=STOP_STRINGS), max_searches=3, k=2, in_flight=6
    )
    engine = TransformersEngine(model, chatty, batch_size=3, max_context=4096)
    found = run_agents(tasks_for(protocol, 12), Agent(engine, MemoryRetriever(), protocol, options))
    eos = chatty.eos_token_id
    ended = [
        (trajectory, turn)
        for trajectory in found
        for turn in trajectory.turns
        if turn.finish_reason == "eos"
    ]
    assert any(turn.feedback for _, turn in ended)
    for trajectory, turn in ended:
        assert turn.eos_dropped == (after_eos == "drop")
        assert turn.action_ids.count(eos) == (after_eos != "drop")
        assert turn.text == protocol.decode(turn.action_ids)
        assert len(turn.logprobs) == len(turn.action_ids) == turn.sampled_tokens - turn.eos_dropped
        assert trajectory.token_ids().count(eos) >= turn.action_ids.count(eos)
    for trajectory in found:
        assert_sampled_by(model, trajectory)


@pytest.mark.parametrize(
    ("after_eos", "between"),
    [
        ("drop", "{correction}"),
        ("keep", "<eos>{correction}"),
        ("user_turn", "<eos>[user]{stripped}<eos>[assistant]"),
    ],
)
def test_the_next_turn_continues_the_tokens_that_stay(
    tokenizer: PreTrainedTokenizerFast, after_eos: str, between: str
) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = CHAT
    protocol = SearchProtocol.from_config(
        chatty, RolloutConfig.model_validate({"after_eos": after_eos})
    )
    engine = ScriptedEngine(chatty, {0: ["it is Bako<eos>", "<eos>", "it<eos>"]}, "eos")
    (trajectory,) = run_agents(
        tasks_for(protocol, 1), Agent(engine, MemoryRetriever(), protocol, settings())
    )
    assert kinds(trajectory) == ["invalid", "invalid", "invalid"]
    first, second, third = (request.token_ids for request in engine.seen)
    correction = protocol.style.invalid
    inserted = between.format(correction=correction, stripped=correction.strip())
    said = tuple(chatty("it is Bako", add_special_tokens=False)["input_ids"])
    rest = tuple(chatty(inserted, add_special_tokens=False)["input_ids"])
    assert second == first + said + rest
    assert third == second + rest, "a reply of the end-of-sequence token alone"
    assert protocol.decode(trajectory.token_ids()).endswith(
        f"{inserted}it" if after_eos == "drop" else f"{inserted}it<eos>"
    )
    it = chatty("it", add_special_tokens=False)["input_ids"]
    records = rollout_record(trajectory)["turns"]
    assert [record.get("eos_dropped", False) for record in records] == [after_eos == "drop"] * 3
    assert [turn.sampled_tokens for turn in trajectory.turns] == [len(said) + 1, 1, len(it) + 1]
    recorded = [record["feedback"].strip() for record in records[:2]]
    assert recorded == [correction.strip()] * 2, "without the tokens around a message"


def favour_tags(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Untie the output and raise the logits of the search tags, so that random weights do
    search.
    """
    head = torch.nn.Linear(model.config.hidden_size, len(tokenizer), bias=True)
    with torch.no_grad():
        head.weight.copy_(model.get_input_embeddings().weight * 0.3)
        head.bias.zero_()
        likely = tokenizer("<search> river</search> town", add_special_tokens=False)["input_ids"]
        head.bias[torch.tensor(likely)] = 6.0
    model.set_output_embeddings(head)


def test_request_seeds_depend_on_identity() -> None:
    seeds = {
        request_seed(seed, GroupId("a", "1", draw), sample)
        for seed in range(3)
        for draw in range(3)
        for sample in range(3)
    }
    assert len(seeds) == 27
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_how_searches_share_requests_changes_no_trajectory(
    protocol: SearchProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
    gate = threading.Event()
    gate.set()
    waits = ["<think>"]
    scripts = {
        session: [*waits * (session % 3), search_action("", f"town {session}"), SEARCH, ANSWER]
        for session in range(9)
    }
    found = [
        run_agents(
            tasks_for(protocol, 9),
            Agent(
                ScriptedEngine(tokenizer, scripts),
                GatedRetriever(gate),
                protocol,
                settings(max_searches=5, in_flight=4, connections=connections),
            ),
        )
        for connections in (1, 2, 64)
    ]
    assert [trajectory.answer for trajectory in found[0]] == ["Bako"] * 9
    assert [trajectory.turns[-2].hits[0].id for trajectory in found[0]] == ["1"] * 9
    assert found[1] == found[0]
    assert found[2] == found[0]
