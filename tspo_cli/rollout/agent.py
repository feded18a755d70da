"""The agent loop: trajectories advance independently; searches reach the retriever in batches.

An in-process retriever is called between decoding steps, which keeps runs reproducible. A retriever
behind a network is called from background threads, so that a trajectory that waits for passages
does not delay the others.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from threading import Event

from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Retriever, SearchResult, unseen, unseen_depth
from tspo_cli.rollout.branch import Branch
from tspo_cli.rollout.engines.engine_protocol import Completion, Engine, GenerationRequest, Sampling
from tspo_cli.rollout.protocol import RolloutState, SearchProtocol
from tspo_cli.rollout.search_requests import SearchRequests
from tspo_cli.rollout.trajectory import INVALID, GroupId, Trajectory, Turn, turn_seed
from tspo_cli.timing import Clock

_STOP_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Task:
    """One trajectory to roll out, number `sample` of its group.

    `prefill` is the end of `prompt_ids` that counts as the beginning of the first model turn.
    `given_turns` are turns before the first model turn, such as the search of one-shot retrieval;
    `prompt_ids` contains them. `branch` says how a rollout of a tree begins; `shared_turns` are the
    turns that it shares with others, which follow the prompt and count as its own.
    """

    question: Question
    group: GroupId
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int
    prefill: str = ""
    given_turns: tuple[Turn, ...] = ()
    branch: Branch | None = None
    shared_turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How the agent acts.

    max_searches: searches of one trajectory. k: passages of one search. in_flight: trajectories
    that run at once. turn_deadline: seconds for one search of a retriever behind a network, from
    when its request is sent. trajectory_deadline: seconds for a whole trajectory, 0 for no limit;
    all waiting counts. connections: requests to such a retriever at once. max_invalid_turns: turns
    without an action in a row that end a trajectory, 0 for no limit. exclude_seen: a search gives
    only passages that no earlier search of the trajectory gave.
    """

    sampling: Sampling
    max_searches: int
    k: int
    in_flight: int = 64
    turn_deadline: float = 120.0
    trajectory_deadline: float = 0.0
    connections: int = 64
    max_invalid_turns: int = 0
    exclude_seen: bool = False

    @property
    def depth(self) -> int:
        """Passages to ask the retriever for."""
        return unseen_depth(self.k, self.max_searches) if self.exclude_seen else self.k


@dataclass(frozen=True, slots=True)
class Agent:
    """What rolls out tasks. `retriever` may be None if `settings.max_searches` is 0.

    Raises:
        ValueError: searches are allowed and there is no retriever.
    """

    engine: Engine
    retriever: Retriever | None
    protocol: SearchProtocol
    settings: AgentSettings

    def __post_init__(self) -> None:
        if self.settings.max_searches > 0 and self.retriever is None:
            raise ValueError("searches are allowed, but there is no retriever")


@dataclass(frozen=True, slots=True)
class RolloutHooks:
    """What a caller observes and controls while tasks are rolled out.

    on_start, on_finish: called when a trajectory starts and when it has ended. more: gives further
    tasks when a trajectory could start and none waits; nothing once there are none. expand: gives
    tasks that follow from a trajectory that has ended, such as its branches; the engine keeps what
    it has cached of all trajectories while there is room. clock: counts the seconds of the parts
    generate, retrieve (an in-process retriever) and idle (no trajectory can decode until passages
    arrive). stop: once another thread sets it, unfinished trajectories are dropped.
    """

    on_start: Callable[[Task], None] | None = None
    on_finish: Callable[[Trajectory], None] | None = None
    more: Callable[[], Sequence[Task]] | None = None
    expand: Callable[[Trajectory], Sequence[Task]] | None = None
    clock: Clock = field(default_factory=Clock)
    stop: Event | None = None


def run_agents(
    tasks: Sequence[Task], agent: Agent, hooks: RolloutHooks | None = None
) -> list[Trajectory]:
    """Roll out all tasks and return their trajectories in the order of `tasks`, then of those that
    `hooks.more` and `hooks.expand` gave, in the order in which they gave them.

    A trajectory has up to `max_searches` turns that may search, then one last turn without search.
    A failed search or a passed deadline marks the trajectory as failed and ends it. Neither becomes
    text that the model reads. A request that a server refuses, or does not answer while it answers
    others, ends its trajectory, which says why.

    Raises:
        RemoteServiceError: the retriever does not answer, which says nothing about any trajectory.
    """
    loop = _Loop(tasks, agent, hooks or RolloutHooks())
    try:
        return loop.run()
    finally:
        loop.close()


@dataclass(slots=True)
class _Rollout:
    """A running trajectory: `ids` are all tokens so far."""

    task: Task
    ids: list[int]
    turns: list[Turn]
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, task: Task) -> _Rollout:
        """A trajectory that begins."""
        ids = list(task.prompt_ids)
        for turn in task.shared_turns:
            ids += (*turn.action_ids, *turn.feedback_ids)
        return cls(task, ids, [*task.given_turns, *task.shared_turns])

    @property
    def model_turns(self) -> list[Turn]:
        return self.turns[len(self.task.given_turns) :]


@dataclass(slots=True)
class _Loop:
    """A session is a task's index. It is in `rollouts` from its start to its end, and in `queries`
    or `searches` while its trajectory waits for passages. `searches` is None for a retriever in
    this process. `ended` has the sessions that the engine still keeps for others to begin with.
    """

    given: Sequence[Task]
    agent: Agent
    hooks: RolloutHooks
    tasks: list[Task] = field(init=False)
    waiting: deque[int] = field(init=False)
    rollouts: dict[int, _Rollout] = field(default_factory=dict)
    finished: dict[int, Trajectory] = field(default_factory=dict)
    ended: dict[tuple[GroupId, int], int] = field(default_factory=dict)
    queries: dict[int, str] = field(default_factory=dict)
    searches: SearchRequests | None = None
    all_given: bool = False

    def __post_init__(self) -> None:
        self.tasks = list(self.given)
        self.waiting = deque(range(len(self.tasks)))
        retriever, settings = self.agent.retriever, self.agent.settings
        if retriever is not None and retriever.blocking:
            self.searches = SearchRequests(
                retriever, settings.depth, settings.connections, settings.turn_deadline
            )

    def run(self) -> list[Trajectory]:
        stop = self.hooks.stop
        while not (stop is not None and stop.is_set()):
            while len(self.rollouts) < self.agent.settings.in_flight and self._has_waiting():
                self._start(self.waiting.popleft())
            if not self.rollouts:
                break
            with self.hooks.clock.part("generate"):
                completions = self.agent.engine.step()
            for completion in completions:
                if completion.session in self.rollouts:
                    self._after_turn(completion)
            self._search()
            self._end_late()
        return [self.finished[session] for session in sorted(self.finished)]

    def _has_waiting(self) -> bool:
        if not (self.waiting or self.all_given or self.hooks.more is None):
            more = self.hooks.more()
            self.waiting.extend(range(len(self.tasks), len(self.tasks) + len(more)))
            self.tasks += more
            self.all_given = not more
        return bool(self.waiting)

    def close(self) -> None:
        for session in (*self.rollouts, *self.ended.values()):
            self.agent.engine.release(session)
        if self.searches is not None:
            self.searches.close()

    def _start(self, session: int) -> None:
        task = self.tasks[session]
        self.rollouts[session] = _Rollout.of(task)
        if self.hooks.on_start is not None:
            self.hooks.on_start(task)
        self._submit(session)

    def _submit(self, session: int) -> None:
        rollout = self.rollouts[session]
        if rollout.model_turns:
            state = self._state(rollout)
            rollout.ids = list(self.agent.protocol.context(state, rollout.ids))
        self.agent.engine.submit(
            GenerationRequest(
                session,
                tuple(rollout.ids),
                self.agent.settings.sampling,
                turn_seed(rollout.task.seed, len(rollout.turns)),
                self._prefix_of(rollout.task),
            )
        )

    def _prefix_of(self, task: Task) -> int | None:
        """The session of the rollout that sampled the last of the turns that `task` shares."""
        if task.branch is None or not task.branch.owners:
            return None
        return self.ended.get((task.group, task.branch.owners[-1]))

    def _state(self, rollout: _Rollout) -> RolloutState:
        used = sum(turn.kind != "note" for turn in rollout.model_turns)
        may_search = used < self.agent.settings.max_searches
        return RolloutState(rollout.task.question, tuple(rollout.turns), may_search)

    def _after_turn(self, completion: Completion) -> None:
        session, protocol = completion.session, self.agent.protocol
        if completion.refused or completion.unanswered:
            self._finish(session, completion.weight_version, lost=completion)
            return
        rollout = self.rollouts[session]
        last = not (state := self._state(rollout)).may_search
        before = "" if rollout.model_turns else rollout.task.prefill
        text = before + protocol.decode(completion.token_ids)
        action = protocol.parse(text, completion.finish_reason, state)
        action_ids = completion.token_ids
        is_invalid = action.kind in INVALID
        if is_invalid:
            action_ids = action_ids[: protocol.kept_tokens(action_ids, completion.finish_reason)]
            text = text.removesuffix(protocol.decode(completion.token_ids[len(action_ids) :]))
        rollout.ids += action_ids
        feedback, feedback_ids = "", list[int]()
        # Cut before the limit of the turn: the context has no room for another turn.
        context_full = (
            completion.finish_reason == "length"
            and len(completion.token_ids) < self.agent.settings.sampling.max_new_tokens
        )
        gives_up = context_full or (is_invalid and self._is_stuck(rollout))
        if is_invalid and not (last or gives_up):
            feedback, feedback_ids = protocol.correction(action_ids)
        rollout.ids += feedback_ids
        rollout.turns.append(
            Turn(
                action_ids=action_ids,
                logprobs=completion.logprobs[: len(action_ids)],
                finish_reason=completion.finish_reason,
                kind=action.kind,
                text=text,
                query=action.content if action.kind == "search" else None,
                answer=action.content if action.kind == "answer" else None,
                feedback=feedback,
                feedback_ids=tuple(feedback_ids),
                weight_version=completion.weight_version,
                mixed=completion.mixed,
                eos_dropped=len(action_ids) < len(completion.token_ids),
                call=action.call,
                thought=completion.thought,
                served_as=completion.served_as,
            )
        )
        if action.kind == "search":
            self.queries[session] = action.content
        elif action.kind == "answer" or gives_up or (last and action.kind != "note"):
            self._finish(session, completion.weight_version)
        else:
            self._submit(session)

    def _is_stuck(self, rollout: _Rollout) -> bool:
        """Whether one more invalid turn is the last one that is allowed."""
        kinds = (turn.kind for turn in reversed(rollout.model_turns))
        before = len([*takewhile(INVALID.__contains__, kinds)])
        return 0 < self.agent.settings.max_invalid_turns <= before + 1

    def _search(self) -> None:
        queries, self.queries = self.queries, {}
        if self.searches is not None:
            self._search_remotely(self.searches, queries)
        elif self.agent.retriever is not None and queries:
            with self.hooks.clock.part("retrieve"):
                depth = self.agent.settings.depth
                results = self.agent.retriever.search(list(queries.values()), depth)
            for session, result in zip(queries, results, strict=True):
                self._after_search(session, result)

    def _search_remotely(self, searches: SearchRequests, queries: Mapping[int, str]) -> None:
        for session, query in queries.items():
            searches.add(session, query)
        searches.send()
        waiting = sum(session in self.rollouts for session in searches.sessions())
        if waiting and waiting == len(self.rollouts):
            self._wait_for_passages(searches)
        for session, result in searches.results():
            self._after_search(session, result)
        searches.send()

    def _wait_for_passages(self, searches: SearchRequests) -> None:
        """No trajectory can decode: sleep until passages arrive or a deadline passes, or for
        `_STOP_SECONDS`, where another thread may stop the work.
        """
        seconds, limit = math.inf, self.agent.settings.trajectory_deadline
        if limit:
            oldest = min(rollout.started for rollout in self.rollouts.values())
            seconds = oldest + limit - time.monotonic()
        if self.hooks.stop is not None:
            seconds = min(seconds, _STOP_SECONDS)
        with self.hooks.clock.part("idle"):
            searches.wait(seconds)

    def _after_search(self, session: int, result: SearchResult) -> None:
        if session not in self.rollouts:  # its deadline has ended it
            return
        rollout = self.rollouts[session]
        turn = rollout.turns.pop()
        if result.error is not None:
            rollout.turns.append(replace(turn, hits=result.hits, search_error=result.error))
            self._finish(session, self.agent.engine.weight_version)
            return
        hits = result.hits
        if self.agent.settings.exclude_seen:
            seen = (hit for earlier in rollout.turns for hit in earlier.hits)
            hits = unseen(hits, seen)[: self.agent.settings.k]
        feedback, feedback_ids = self.agent.protocol.search_result(turn, hits)
        rollout.turns.append(
            replace(turn, hits=hits, feedback=feedback, feedback_ids=tuple(feedback_ids))
        )
        rollout.ids += feedback_ids
        self._submit(session)

    def _end_late(self) -> None:
        if not self.agent.settings.trajectory_deadline:
            return
        earliest = time.monotonic() - self.agent.settings.trajectory_deadline
        late = [session for session, rollout in self.rollouts.items() if rollout.started < earliest]
        for session in late:
            self._finish(session, self.agent.engine.weight_version, late=True)
            if self.searches is not None:
                self.searches.drop(session)

    def _finish(
        self, session: int, version: int, *, late: bool = False, lost: Completion | None = None
    ) -> None:
        rollout = self.rollouts.pop(session)
        task = rollout.task
        if self.hooks.expand is None or lost or late:
            self.agent.engine.release(session)
        else:
            self.ended[task.group, task.sample] = session
        trajectory = Trajectory(
            *(task.group, task.sample, task.question, task.prompt_ids, tuple(rollout.turns)),
            weight_version=version,
            late=late,
            refused=lost.refused if lost else "",
            branch=task.branch,
            unanswered=lost.unanswered if lost else "",
        )
        self.finished[session] = trajectory
        if self.hooks.on_finish is not None:
            self.hooks.on_finish(trajectory)
        if self.hooks.expand is not None:
            tasks = self.hooks.expand(trajectory)
            # First, while what they begin with is in the cache.
            new = range(len(self.tasks), len(self.tasks) + len(tasks))
            self.waiting.extendleft(reversed(new))
            self.tasks += tasks
