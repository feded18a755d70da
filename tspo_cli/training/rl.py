"""Reinforcement learning: roll out groups, assign credit, update the policy."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tspo_cli.config.schema import Config
from tspo_cli.credit.diagnostics import group_metrics
from tspo_cli.credit.group import GroupCredit, TrajectoryCredit
from tspo_cli.data.readers import read_questions, resolve_data
from tspo_cli.data.schema import Question
from tspo_cli.errors import InvalidInputError, RemoteServiceError, TspoError
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.agent import AgentSettings, Task, request_seed, run_agents
from tspo_cli.rollout.clock import Clock
from tspo_cli.rollout.engines.base import Engine, Sampling
from tspo_cli.rollout.protocol import STOP, SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, Trajectory, trajectory_record
from tspo_cli.training.critic import Critic
from tspo_cli.training.distributed import all_sum, gather_json, rank, world_size
from tspo_cli.training.early_warning import warning_metrics
from tspo_cli.training.handover import hand_over, rest
from tspo_cli.training.learner import Learner
from tspo_cli.training.loop import Step
from tspo_cli.training.scoring import ScoredGroup, score

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
        raise InvalidInputError(f"data.types: no training question is of {config.data.types}; types are: {types}")
    return kept


def batch_of_step(questions: Sequence[Question], step: int, config: Config) -> list[tuple[Question, int]]:
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


def refill_of_step(questions: Sequence[Question], step: int, refill: int, config: Config) -> list[tuple[Question, int]]:
    """The questions of refill `refill` (from 1) of a step with dynamic sampling: drawn anew, without state as well.

    Their draws are numbers that no epoch has, so that a question that comes again gets other rollouts.
    """
    size = min(config.rollout.questions_per_step, len(questions))
    order = np.random.default_rng([config.seed, REFILLS, step, refill]).permutation(len(questions))[:size]
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
    """The function that makes training step `step`: rollouts, credit, updates."""

    clock = Clock()

    def roll(batch: Sequence[tuple[Question, int]], start: int) -> tuple[list[Trajectory], list[ScoredGroup]]:
        tasks = _tasks(batch, protocol, config)
        trajectories = run_agents(tasks, engine, retriever, protocol, agent_settings(config), clock=clock)
        places = {GroupId(one.data_source, one.id, draw): place for place, (one, draw) in enumerate(batch, start)}
        return trajectories, score(trajectories, places, config, learner, critic, protocol)

    def take(step: int) -> Step:
        started = time.perf_counter()
        trajectories, groups = roll(batch_of_step(questions, step, config), 0)
        refills = 0
        while config.rollout.dynamic_sampling and refills < config.rollout.max_refills and _short(groups, config):
            refills += 1
            more = roll(refill_of_step(questions, step, refills, config), refills * config.rollout.questions_per_step)
            trajectories, groups = trajectories + more[0], groups + more[1]
        rest(engine)
        lost = _lost_shares(trajectories, step)
        rolled = time.perf_counter()
        parity = _check_parity(groups, learner, config, step)
        trained = _with_signal(groups, config) if config.rollout.dynamic_sampling else groups
        updates = _update(trained, learner, critic, config, step)
        updated = time.perf_counter()
        gap = hand_over(learner, engine, protocol, config, step)
        handed = {} if gap is None else {"handover_parity": gap}
        over = time.perf_counter()
        records, metrics = _gather(groups, lost, step)
        metrics |= warning_metrics(records, config.credit)
        if config.rollout.dynamic_sampling:
            metrics |= {"refills": float(refills), "trained_groups": all_sum([len(trained)])[0]}
        timings = {"rollout": rolled - started, "update": updated - rolled, "handover": over - updated}
        timings |= clock.take() | learner.clock.take()
        if critic is not None:
            timings |= {f"critic_{part}": seconds for part, seconds in critic.clock.take().items()}
        return Step(metrics | parity | updates | handed, timings, records)

    return take


def _short(groups: Sequence[ScoredGroup], config: Config) -> bool:
    """Whether fewer groups than a step wants have an advantage, over all processes."""
    return all_sum([sum(group.credit.level != "none" for group in groups)])[0] < config.rollout.questions_per_step


def _with_signal(groups: Sequence[ScoredGroup], config: Config) -> list[ScoredGroup]:
    """Of this process's groups those that dynamic sampling trains on: the first of the batch that have an advantage."""
    mine = [group for group in groups if group.credit.level != "none"]
    everywhere = sorted(place for part in gather_json([group.place for group in mine]) for place in part)
    chosen = set(everywhere[: config.rollout.questions_per_step])
    return [group for group in mine if group.place in chosen]


def agent_settings(config: Config) -> AgentSettings:
    """How training rollouts are sampled."""
    rollout = config.rollout
    sampling = Sampling(rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_new_tokens, STOP)
    return AgentSettings(sampling, rollout.max_searches, config.retriever.k, rollout.batch_size, rollout.turn_deadline)


def _tasks(batch: Sequence[tuple[Question, int]], protocol: SearchProtocol, config: Config) -> list[Task]:
    tasks = []
    for question, draw in batch[rank() :: world_size()]:
        prompt_ids = tuple(protocol.prompt_ids(question.question))
        if len(prompt_ids) > config.rollout.max_prompt_tokens:
            raise InvalidInputError(
                f"question {question.id!r}: its prompt has {len(prompt_ids)} tokens, "
                f"rollout.max_prompt_tokens is {config.rollout.max_prompt_tokens}; raise it or drop the question"
            )
        group = GroupId(question.data_source, question.id, draw)
        tasks += [
            Task(question, group, sample, prompt_ids, request_seed(config.seed, group, sample))
            for sample in range(config.rollout.group_size)
        ]
    return tasks


def _lost_shares(trajectories: Sequence[Trajectory], step: int) -> dict[str, float]:
    """Shares of trajectories, over all processes, that a failed search ended (an error when it is all of them), and
    that were sampled by more than one version of the weights."""
    failed, mixed, total = all_sum(
        [sum(one.failed for one in trajectories), sum(one.mixed for one in trajectories), len(trajectories)]
    )
    if failed == total:
        errors = [turn.search_error for one in trajectories for turn in one.turns if turn.search_error]
        reason = errors[0] if errors else "on other processes"
        raise RemoteServiceError(f"step {step}: every search failed ({reason}); check the retriever, then use --resume")
    return {"failed_share": failed / total, "mixed_share": mixed / total}


def _check_parity(groups: Sequence[ScoredGroup], learner: Learner, config: Config, step: int) -> dict[str, float]:
    """Compare the engine's log-probs with the learner's on a few trajectories: both must be the same policy."""
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
            f"step {step}: engine and learner log-probs differ by {mean:.4g} nats on average, more than "
            f"train.parity_limit {config.train.parity_limit}; the rollouts do not come from the trained policy"
        )
    return {"parity": mean}


def _update(
    groups: Sequence[ScoredGroup], learner: Learner, critic: Critic | None, config: Config, step: int
) -> dict[str, float]:
    """`updates_per_step` updates over portions of the groups; the means of their metrics."""
    portions = config.train.updates_per_step
    rows = []
    for part in range(portions):
        portion = [group for group in groups if group.place % portions == part]
        row: dict[str, float] = {}
        if critic is not None:
            row |= critic.update_values([sequence for group in portion for sequence in group.value_sequences()])
        if config.kind == "rejection_sampling":
            kept = [sequence for group in portion for sequence in group.kept()]
            row |= learner.update_sft(kept) | {"imitated": all_sum([len(kept)])[0]}
        elif critic is None or step > config.critic.head_start:
            row |= learner.update_policy([sequence for group in portion for sequence in group.sequences()])
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _mean([row[name] for row in rows if name in row]) for name in names}


def _gather(
    groups: Sequence[ScoredGroup], lost: dict[str, float], step: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Records of all processes in the order of the batch, and the metrics of the whole step."""
    mine = [(group.place, _group_record(group, step), dataclasses.asdict(group.credit)) for group in groups]
    gathered = sorted((one for part in gather_json(mine) for one in part), key=lambda one: one[0])
    records = [record for _, record, _ in gathered]
    credits = [_credit_from_dict(credit) for _, _, credit in gathered]
    rollouts = [one for record in records for one in record["trajectories"]]
    turns = [turn for one in rollouts for turn in one["turns"]]
    metrics = {
        "reward": _mean([one["outcome"] for one in rollouts]),
        **{f"groups/{key}": value for key, value in group_metrics(credits).items()},
        "searches": _mean([sum(turn["kind"] == "search" for turn in one["turns"]) for one in rollouts]),
        "turns": _mean([len(one["turns"]) for one in rollouts]),
        "response_tokens": _mean([sum(turn["tokens"] for turn in one["turns"]) for one in rollouts]),
        "invalid_share": _mean([turn["kind"] == "invalid" for turn in turns]),
        "truncated_share": _mean([turn["kind"] == "truncated" for turn in turns]),
        "answered_share": _mean([one["answer"] is not None for one in rollouts]),
        **lost,
    }
    return records, metrics


def _group_record(group: ScoredGroup, step: int) -> dict[str, Any]:
    question = group.trajectories[0].question
    return {
        "step": step,
        "group": list(group.trajectories[0].group),
        "type": question.type,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "group_class": group.credit.group_class,
        "level": group.credit.level,
        "trajectories": [
            trajectory_record(trajectory)
            | ({"gold_logprobs": list(group.beliefs[place])} if group.beliefs[place:] and group.beliefs[place] else {})
            | {
                "outcome": credit.outcome,
                "class": credit.trajectory_class,
                "first_occurrence": credit.first_occurrence,
                "turn_rewards": list(credit.turn_rewards),
                "advantages": list(credit.advantages),
            }
            for place, (trajectory, credit) in enumerate(
                zip(group.trajectories, group.credit.trajectories, strict=True)
            )
        ],
    }


def _credit_from_dict(record: dict[str, Any]) -> GroupCredit:
    trajectories = tuple(TrajectoryCredit(**one) for one in record["trajectories"])
    return GroupCredit(record["group_class"], record["algorithm"], record["level"], trajectories)


def _mean(values: Sequence[float]) -> float:
    return float(sum(values)) / len(values) if values else 0.0
