"""The agent loop: every trajectory moves on its own; searches reach the retriever as batches.

An in-process retriever is asked between decoding steps, which keeps runs reproducible. A retriever
behind a network is asked from background threads, so that waiting for passages holds back no other
trajectory.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from threading import Event

from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Retriever, SearchResult
from tspo_cli.rollout.engines.engine_protocol import Completion, Engine, GenerationRequest, Sampling
from tspo_cli.rollout.protocol import Moment, SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn
from tspo_cli.timing import Clock

SEARCH_THREADS = 8


@dataclass(frozen=True, slots=True)
class Task:
    """One trajectory to roll out. `prefill` is the part of `prompt_ids` that belongs to the first
    model turn; `earlier` are turns that happened before the model speaks (one-shot retrieval).
    """

    question: Question
    group: GroupId
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int
    prefill: str = ""
    earlier: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Budget, sampling and deadlines of the loop, in seconds; `trajectory_deadline` 0 is none."""

    sampling: Sampling
    max_searches: int
    k: int
    in_flight: int = 64
    turn_deadline: float = 120.0
    trajectory_deadline: float = 0.0


@dataclass(slots=True)
class _State:
    task: Task
    ids: list[int]
    turns: list[Turn] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class _Pending:
    future: Future[list[SearchResult]]
    sessions: tuple[int, ...]
    deadline: float


def request_seed(seed: int, group: GroupId, sample: int) -> int:
    """A 63-bit seed that depends on the experiment's seed and the trajectory's identity alone."""
    text = f"{seed}|{group.data_source}|{group.question_id}|{group.draw}|{sample}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def run_agents(
    tasks: Sequence[Task],
    engine: Engine,
    retriever: Retriever | None,
    protocol: SearchProtocol,
    settings: AgentSettings,
    on_finish: Callable[[Trajectory], None] | None = None,
    on_start: Callable[[Task], None] | None = None,
    clock: Clock | None = None,
    stop: Event | None = None,
) -> list[Trajectory]:
    """Roll out all tasks and return their trajectories in the order of `tasks`.

    A task has `max_searches` turns that may search and one last turn without search. A failed
    search marks its trajectory and ends it, as does the deadline of a trajectory; neither becomes
    text. `clock` gets the parts generate, retrieve (an in-process retriever at work) and idle
    (nothing to decode until passages arrive). `stop`, set from another thread, gives the rest up.

    Raises:
        ValueError: searches are allowed and there is no retriever.
    """
    if settings.max_searches > 0 and retriever is None:
        raise ValueError("searches are allowed, but there is no retriever")
    loop = _Loop(
        tasks, engine, retriever, protocol, settings, on_finish, on_start, clock or Clock(), stop
    )
    try:
        return loop.run()
    finally:
        loop.close()


class _Loop:
    def __init__(
        self,
        tasks: Sequence[Task],
        engine: Engine,
        retriever: Retriever | None,
        protocol: SearchProtocol,
        settings: AgentSettings,
        on_finish: Callable[[Trajectory], None] | None,
        on_start: Callable[[Task], None] | None,
        clock: Clock,
        stop: Event | None,
    ) -> None:
        self.tasks, self.engine, self.retriever = tasks, engine, retriever
        self.protocol, self.settings, self.clock = protocol, settings, clock
        self.on_finish, self.on_start, self.stop = on_finish, on_start, stop
        self.waiting = deque(range(len(tasks)))
        self.states: dict[int, _State] = {}
        self.done: list[Trajectory | None] = [None] * len(tasks)
        self.queries: dict[int, str] = {}
        self.pending: list[_Pending] = []
        self.pool = (
            ThreadPoolExecutor(SEARCH_THREADS)
            if retriever is not None and retriever.blocking
            else None
        )

    def run(self) -> list[Trajectory]:
        while (self.waiting or self.states) and not (self.stop is not None and self.stop.is_set()):
            while self.waiting and len(self.states) < self.settings.in_flight:
                self._start(self.waiting.popleft())
            with self.clock.part("generate"):
                finished = self.engine.step()
            for completion in finished:
                if completion.session in self.states:
                    self._after_turn(completion)
            self._search()
            self._end_late()
        return [trajectory for trajectory in self.done if trajectory is not None]

    def close(self) -> None:
        for session in list(self.states):
            self.engine.release(session)
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, session: int) -> None:
        task = self.tasks[session]
        self.states[session] = _State(task, list(task.prompt_ids), list(task.earlier))
        if self.on_start is not None:
            self.on_start(task)
        self._submit(session)

    def _submit(self, session: int) -> None:
        state = self.states[session]
        if len(state.turns) > len(state.task.earlier):
            state.ids = list(self.protocol.context(self._moment(state), state.ids))
        self.engine.submit(
            GenerationRequest(
                session,
                tuple(state.ids),
                self.settings.sampling,
                _turn_seed(state.task.seed, state.turns),
            )
        )

    def _moment(self, state: _State) -> Moment:
        own = sum(turn.kind != "note" for turn in state.turns[len(state.task.earlier) :])
        return Moment(state.task.question, tuple(state.turns), own < self.settings.max_searches)

    def _after_turn(self, completion: Completion) -> None:
        session = completion.session
        state = self.states[session]
        moment = self._moment(state)
        last = not moment.may_search
        text = self.protocol.decode(completion.token_ids)
        if len(state.turns) == len(state.task.earlier):
            text = state.task.prefill + text
        action = self.protocol.parse(text, completion.finish_reason, moment)
        state.ids += completion.token_ids
        feedback, feedback_ids = "", list[int]()
        # Cut before its own limit: the context has no room for another turn.
        full = (
            completion.finish_reason == "length"
            and len(completion.token_ids) < self.settings.sampling.max_new_tokens
        )
        if action.kind in ("invalid", "truncated") and not (last or full):
            feedback, feedback_ids = self.protocol.correction()
        state.ids += feedback_ids
        state.turns.append(
            Turn(
                action_ids=completion.token_ids,
                logprobs=completion.logprobs,
                finish_reason=completion.finish_reason,
                kind=action.kind,
                text=text,
                query=action.content if action.kind == "search" else None,
                answer=action.content if action.kind == "answer" else None,
                feedback=feedback,
                feedback_ids=tuple(feedback_ids),
                weight_version=completion.weight_version,
                mixed=completion.mixed,
            )
        )
        if action.kind == "search":
            self.queries[session] = action.content
        elif action.kind == "answer" or full or (last and action.kind != "note"):
            self._finish(session, completion.weight_version)
        else:
            self._submit(session)

    def _search(self) -> None:
        if self.retriever is None:
            return
        if self.queries:
            sessions = tuple(self.queries)
            queries = [self.queries.pop(session) for session in sessions]
            if self.pool is None:
                with self.clock.part("retrieve"):
                    results = self.retriever.search(queries, self.settings.k)
                self._after_search(sessions, results)
            else:
                future = self.pool.submit(self.retriever.search, queries, self.settings.k)
                self.pending.append(
                    _Pending(future, sessions, time.monotonic() + self.settings.turn_deadline)
                )
        if self.pending:
            self._collect()

    def _collect(self) -> None:
        now = time.monotonic()
        if sum(
            session in self.states for pending in self.pending for session in pending.sessions
        ) == len(self.states):
            # Nothing to decode: sleep until passages arrive or a deadline passes.
            deadlines = [pending.deadline for pending in self.pending]
            if self.settings.trajectory_deadline:
                oldest = min(state.started for state in self.states.values())
                deadlines.append(oldest + self.settings.trajectory_deadline)
            patience = max(0.0, min(deadlines) - now)
            with self.clock.part("idle"):
                wait(
                    [pending.future for pending in self.pending],
                    timeout=patience,
                    return_when=FIRST_COMPLETED,
                )
            now = time.monotonic()
        still = []
        for pending in self.pending:
            if pending.future.done():
                self._after_search(pending.sessions, pending.future.result())
            elif now >= pending.deadline:
                late = SearchResult(error=f"no answer within {self.settings.turn_deadline:g} s")
                self._after_search(pending.sessions, [late] * len(pending.sessions))
            else:
                still.append(pending)
        self.pending = still

    def _after_search(self, sessions: Sequence[int], results: Sequence[SearchResult]) -> None:
        for session, result in zip(sessions, results, strict=True):
            if session not in self.states:  # ended by its own deadline meanwhile
                continue
            state = self.states[session]
            turn = state.turns.pop()
            if result.error is not None:
                state.turns.append(_with_result(turn, result, "", []))
                self._finish(session, self.engine.weight_version)
                continue
            feedback, feedback_ids = self.protocol.observation(result.hits)
            state.turns.append(_with_result(turn, result, feedback, feedback_ids))
            state.ids += feedback_ids
            self._submit(session)

    def _end_late(self) -> None:
        if not self.settings.trajectory_deadline:
            return
        oldest = time.monotonic() - self.settings.trajectory_deadline
        for session in [
            session for session, state in self.states.items() if state.started < oldest
        ]:
            self._finish(session, self.engine.weight_version, late=True)

    def _finish(self, session: int, weight_version: int, *, late: bool = False) -> None:
        self.engine.release(session)
        state = self.states.pop(session)
        task = state.task
        trajectory = Trajectory(
            task.group,
            task.sample,
            task.question,
            task.prompt_ids,
            tuple(state.turns),
            weight_version,
            late,
        )
        self.done[session] = trajectory
        if self.on_finish is not None:
            self.on_finish(trajectory)


def _with_result(
    turn: Turn, result: SearchResult, feedback: str, feedback_ids: Sequence[int]
) -> Turn:
    return replace(
        turn,
        hits=result.hits,
        feedback=feedback,
        feedback_ids=tuple(feedback_ids),
        search_error=result.error,
    )


def _turn_seed(seed: int, turns: Sequence[Turn]) -> int:
    return (seed + 0x9E3779B97F4A7C15 * len(turns)) & ((1 << 63) - 1)
