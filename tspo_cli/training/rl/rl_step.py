"""Reinforcement learning: roll out groups, assign credit, update the policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event

import numpy as np

from tspo_cli.config.schema import Config
from tspo_cli.data.question import Question
from tspo_cli.data.readers import read_questions, resolve_data
from tspo_cli.errors import InvalidInputError, RemoteServiceError, TspoError
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.agent import AgentSettings, Task, request_seed, run_agents
from tspo_cli.rollout.engines.engine_protocol import Engine, Sampling
from tspo_cli.rollout.protocol import STOP, SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, Trajectory
from tspo_cli.timing import Clock
from tspo_cli.training.core.critic import Critic
from tspo_cli.training.core.distributed import all_sum, gather_json, rank, world_size
from tspo_cli.training.core.handover import hand_over
from tspo_cli.training.core.learner import Learner
from tspo_cli.training.loop import Step
from tspo_cli.training.rl.background import alongside
from tspo_cli.training.rl.early_warnings import warning_metrics
from tspo_cli.training.rl.off_policy import importance_corrected, staleness
from tspo_cli.training.rl.rollout_records import mean, step_records
from tspo_cli.training.rl.scoring import ScoredGroup, score

PARITY_SEQUENCES = 2
REFILLS = 1_000_003


def read_training_questions(config: Config) -> list[Question]:
    """All questions of config.data.train, of config.data.types where that is set, in file order.

    Raises:
        InvalidInputError: no question is left.
    """
    questions = [one for name in config.data.train for one in read_questions(resolve_data(name))]
    kept = [one for one in questions if not config.data.types or one.type in config.data.types]
    if not kept:
        types = ", ".join(sorted({one.type for one in questions}))
        raise InvalidInputError(
            f"data.types: no training question is of {config.data.types}; types are: {types}"
        )
    return kept


def batch_of_step(
    questions: Sequence[Question], step: int, config: Config
) -> list[tuple[Question, int]]:
    """The questions of training step `step` (from 1), each with its draw (the epoch).

    Every epoch is a new permutation; no state, so that a resumed run goes on where it was.
    """
    size, total = config.rollout.questions_per_step, len(questions)
    places = [divmod(index, total) for index in range((step - 1) * size, step * size)]
    orders = {
        epoch: np.random.default_rng([config.seed, epoch]).permutation(total)
        for epoch in {epoch for epoch, _ in places}
    }
    return [(questions[int(orders[epoch][place])], epoch) for epoch, place in places]


def refill_of_step(
    questions: Sequence[Question], step: int, refill: int, config: Config
) -> list[tuple[Question, int]]:
    """The questions of refill `refill` (from 1) of a step with dynamic sampling: drawn anew,
    without state as well.

    Their draws are numbers that no epoch has, so that a question that comes again gets other
    rollouts.
    """
    size = min(config.rollout.questions_per_step, len(questions))
    order = np.random.default_rng([config.seed, REFILLS, step, refill]).permutation(len(questions))[
        :size
    ]
    return [(questions[int(place)], REFILLS * step + refill) for place in order]


def rl_step(
    config: Config,
    learner: Learner,
    critic: Critic | None,
    engine: Engine,
    retriever: Retriever | None,
    protocol: SearchProtocol,
    questions: Sequence[Question],
) -> Callable[[int], Step]:
    """The function that makes training step `step`: rollouts, credit, updates.

    With rollout.one_step_off the rollouts of step + 1 are sampled meanwhile, where `_may_go_ahead`.
    """

    clock = Clock()
    held: dict[int, list[Trajectory]] = {}

    def roll(batch: Sequence[tuple[Question, int]], stop: Event | None = None) -> list[Trajectory]:
        tasks = _tasks(batch, protocol, config)
        return run_agents(
            tasks, engine, retriever, protocol, agent_settings(config), clock=clock, stop=stop
        )

    def grade(
        batch: Sequence[tuple[Question, int]], rolled: Sequence[Trajectory], start: int
    ) -> list[ScoredGroup]:
        places = {
            GroupId(one.data_source, one.id, draw): place
            for place, (one, draw) in enumerate(batch, start)
        }
        return score(rolled, places, config, learner, critic, protocol)

    def ahead(step: int) -> Callable[[Event], list[Trajectory]] | None:
        if not _may_go_ahead(step, config):
            return None
        return lambda stop: roll(batch_of_step(questions, step + 1, config), stop)

    def take(step: int) -> Step:
        started = time.perf_counter()
        batch = batch_of_step(questions, step, config)
        trajectories = held.pop(step) if step in held else roll(batch)
        groups = grade(batch, trajectories, 0)
        refills = 0
        while (
            config.rollout.dynamic_sampling
            and refills < config.rollout.max_refills
            and _short(groups, config)
        ):
            refills += 1
            batch = refill_of_step(questions, step, refills, config)
            more = roll(batch)
            groups += grade(batch, more, refills * config.rollout.questions_per_step)
            trajectories = trajectories + more
        engine.sleep()
        lost = _lost_shares(trajectories, step)
        rolled = time.perf_counter()
        with alongside(ahead(step)) as upcoming:
            trained, parity = _current(groups, learner, config, step)
            trained = _with_signal(trained, config) if config.rollout.dynamic_sampling else trained
            updates = _update(trained, learner, critic, config, step)
            updated = time.perf_counter()
            coming = upcoming()
        if coming is not None:
            held[step + 1] = coming
        waited = time.perf_counter()
        gap = hand_over(learner, engine, protocol, config, step)
        handed = {} if gap is None else {"handover_parity": gap}
        over = time.perf_counter()
        records, metrics = step_records(groups, lost, step)
        metrics |= warning_metrics(records, config.credit)
        if config.rollout.dynamic_sampling:
            metrics |= {"refills": float(refills), "trained_groups": all_sum([len(trained)])[0]}
        timings = {
            "rollout": rolled - started,
            "update": updated - rolled,
            "handover": over - waited,
        }
        timings |= {"wait": waited - updated} if config.rollout.one_step_off else {}
        timings |= clock.take() | learner.clock.take()
        if critic is not None:
            timings |= {f"critic_{part}": seconds for part, seconds in critic.clock.take().items()}
        return Step(metrics | parity | updates | handed, timings, records)

    return take


def _may_go_ahead(step: int, config: Config) -> bool:
    """Whether the rollouts of the step after `step` are sampled while it trains.

    Not across a checkpoint: a run that is resumed from it has nothing but its weights, so both
    sample with these, and a resumed run stays the run that was never stopped.
    """
    last = step == config.train.steps
    saved = config.checkpoint.every > 0 and step % config.checkpoint.every == 0
    return config.rollout.one_step_off and not (last or saved)


def _current(
    groups: list[ScoredGroup], learner: Learner, config: Config, step: int
) -> tuple[list[ScoredGroup], dict[str, float]]:
    """The groups as samples of the learner's policy: checked where it sampled them, corrected where
    an earlier did.
    """
    age = staleness(groups, step - 1) if config.rollout.one_step_off else 0.0
    stale = {"staleness": age} if config.rollout.one_step_off else {}
    if age == 0:
        return groups, stale | _check_parity(groups, learner, config, step)
    if config.kind != "rl":
        return groups, stale
    corrected, metrics = importance_corrected(groups, learner, config.loss)
    return corrected, stale | metrics


def _short(groups: Sequence[ScoredGroup], config: Config) -> bool:
    """Whether fewer groups than a step wants have an advantage, over all processes."""
    return (
        all_sum([sum(group.credit.level != "none" for group in groups)])[0]
        < config.rollout.questions_per_step
    )


def _with_signal(groups: Sequence[ScoredGroup], config: Config) -> list[ScoredGroup]:
    """Of this process's groups those that dynamic sampling trains on: the first of the batch that
    have an advantage.
    """
    mine = [group for group in groups if group.credit.level != "none"]
    everywhere = sorted(
        place for part in gather_json([group.place for group in mine]) for place in part
    )
    chosen = set(everywhere[: config.rollout.questions_per_step])
    return [group for group in mine if group.place in chosen]


def agent_settings(config: Config) -> AgentSettings:
    """How training rollouts are sampled."""
    rollout = config.rollout
    sampling = Sampling(
        rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_new_tokens, STOP
    )
    return AgentSettings(
        sampling,
        rollout.max_searches,
        config.retriever.k,
        rollout.batch_size,
        rollout.turn_deadline,
        rollout.trajectory_deadline,
    )


def _tasks(
    batch: Sequence[tuple[Question, int]], protocol: SearchProtocol, config: Config
) -> list[Task]:
    tasks = []
    for question, draw in batch[rank() :: world_size()]:
        prompt_ids = tuple(protocol.prompt_ids(question.question))
        if len(prompt_ids) > config.rollout.max_prompt_tokens:
            raise InvalidInputError(
                f"question {question.id!r}: its prompt has {len(prompt_ids)} tokens, "
                f"rollout.max_prompt_tokens is {config.rollout.max_prompt_tokens}; raise it or "
                "drop the question"
            )
        group = GroupId(question.data_source, question.id, draw)
        tasks += [
            Task(question, group, sample, prompt_ids, request_seed(config.seed, group, sample))
            for sample in range(config.rollout.group_size)
        ]
    return tasks


def _lost_shares(trajectories: Sequence[Trajectory], step: int) -> dict[str, float]:
    """Shares of trajectories, over all processes, that a failed search or a deadline ended (an
    error when it is all of them), and that were sampled by more than one version of the weights.
    """
    failed, mixed, total = all_sum(
        [
            sum(one.failed for one in trajectories),
            sum(one.mixed for one in trajectories),
            len(trajectories),
        ]
    )
    if failed == total:
        errors = [
            turn.search_error for one in trajectories for turn in one.turns if turn.search_error
        ]
        if any(one.late for one in trajectories):
            errors.append("later than rollout.trajectory_deadline")
        reason = errors[0] if errors else "on other processes"
        raise RemoteServiceError(
            f"step {step}: every rollout failed ({reason}); check the retriever and the deadlines, "
            "then use --resume"
        )
    return {"failed_share": failed / total, "mixed_share": mixed / total}


def _check_parity(
    groups: Sequence[ScoredGroup], learner: Learner, config: Config, step: int
) -> dict[str, float]:
    """Compare the engine's log-probs with the learner's on a few trajectories: both must be the
    same policy.
    """
    sequences = [sequence for group in groups for sequence in group.sequences()][:PARITY_SEQUENCES]
    gaps = [
        abs(new - old)
        for sequence, logprobs in zip(sequences, learner.logprobs(sequences), strict=True)
        for new, old, weight in zip(logprobs, sequence.old_logprobs, sequence.weights, strict=True)
        if weight > 0
    ]
    total, count = all_sum([sum(gaps), len(gaps)])
    mean = total / max(count, 1.0)
    if mean > config.train.parity_limit:
        raise TspoError(
            f"step {step}: engine and learner log-probs differ by {mean:.4g} nats on average, more "
            "than "
            f"train.parity_limit {config.train.parity_limit}; the rollouts do not come from the "
            "trained policy"
        )
    return {"parity": mean}


def _update(
    groups: Sequence[ScoredGroup],
    learner: Learner,
    critic: Critic | None,
    config: Config,
    step: int,
) -> dict[str, float]:
    """`updates_per_step` updates over portions of the groups; the means of their metrics."""
    portions = config.train.updates_per_step
    rows = []
    for part in range(portions):
        portion = [group for group in groups if group.place % portions == part]
        row: dict[str, float] = {}
        if critic is not None:
            row |= critic.update_values(
                [sequence for group in portion for sequence in group.value_sequences()]
            )
        if config.kind == "rejection_sampling":
            kept = [sequence for group in portion for sequence in group.kept()]
            row |= learner.update_sft(kept) | {"imitated": all_sum([len(kept)])[0]}
        elif critic is None or step > config.critic.head_start:
            row |= learner.update_policy(
                [sequence for group in portion for sequence in group.sequences()]
            )
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: mean([row[name] for row in rows if name in row]) for name in names}
