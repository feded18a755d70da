"""A step of reinforcement learning: roll out groups, assign credit, update the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from tspo_cli import stopping
from tspo_cli.config.schema import Config
from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.agent import Agent, AgentSettings, RolloutHooks, Task, run_agents
from tspo_cli.rollout.engines.engine_protocol import Engine, ReportsLoad, Sampling
from tspo_cli.rollout.protocol import STOP_STRINGS, SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.rollout.trees import Forest, TreeSettings
from tspo_cli.runs import QUESTIONS_NAME, read_jsonl
from tspo_cli.timing import Clock
from tspo_cli.training.core.critic import Critic
from tspo_cli.training.core.distributed import all_sum, rank, shared_store, world_size
from tspo_cli.training.core.handover import hand_over
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.stop_points import local_work
from tspo_cli.training.loop import StepResult
from tspo_cli.training.rl.background import in_background
from tspo_cli.training.rl.dynamic_sampling import groups_with_advantage, needs_refill
from tspo_cli.training.rl.early_warnings import warning_metrics
from tspo_cli.training.rl.judged_rollouts import AnswerJudge, judge_metrics, judged
from tspo_cli.training.rl.question_batches import (
    BatchQuestion,
    batch_of_step,
    refill_of_step,
    rollout_tasks,
)
from tspo_cli.training.rl.question_pool import QuestionPool
from tspo_cli.training.rl.rollout_checks import PolicyCheck, as_samples_of_policy, lost_shares
from tspo_cli.training.rl.rollout_records import mean, step_records, tree_metrics, with_failed
from tspo_cli.training.rl.scoring import Models, ScoredGroup, score
from tspo_cli.training.rl.sharing import (
    ExpectedLengths,
    SharedQuestions,
    dealt,
    is_dynamic,
    returned,
    static_share,
)
from tspo_cli.training.rl.step_warnings import StepWarnings
from tspo_cli.training.telemetry.rollout_load import MeasuredRetriever, RolloutLoad


@dataclass(frozen=True)
class RlParts:
    """What a step of reinforcement learning works with. `critic` is None where the algorithm has
    none, `retriever` where rollouts may not search, `judge` where none gives the outcome.
    `directory` is that of the run.
    """

    config: Config
    learner: PolicyLearner
    critic: Critic | None
    engine: Engine
    retriever: Retriever | None
    protocol: SearchProtocol
    questions: Sequence[Question]
    directory: Path
    judge: AnswerJudge | None = None


@dataclass(frozen=True)
class Rollouts:
    """Rollouts that this process made of the questions of a whole `batch`."""

    batch: Sequence[BatchQuestion]
    trajectories: list[Trajectory]


@dataclass(frozen=True)
class ScoredBatch:
    """The rollouts of a step, the groups with credit that they form, and how often the batch was
    refilled (dynamic sampling).
    """

    trajectories: list[Trajectory]
    groups: list[ScoredGroup]
    refills: int = 0


@dataclass
class RlStep:
    """Makes the training steps. Its only state are rollouts that were sampled one step ahead, how
    long a trouble has lasted that the user is warned of, lengths of earlier rollouts, and the pool
    of questions, which RUN/questions.jsonl holds.
    """

    parts: RlParts
    prefetched: dict[int, Rollouts] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    warnings: StepWarnings = field(init=False)
    lengths: ExpectedLengths = field(default_factory=ExpectedLengths)
    retriever: MeasuredRetriever | None = field(init=False)
    pool: QuestionPool | None = None

    def __post_init__(self) -> None:
        self.warnings = StepWarnings(self.parts.config)
        retriever = self.parts.retriever
        self.retriever = MeasuredRetriever(retriever) if retriever is not None else None

    def __call__(self, step: int, is_kept: bool) -> StepResult:
        """Make training step `step` (from 1). If `is_kept`, a checkpoint follows it."""
        self.take_load()  # what evaluations asked for since the last step
        with self.clock.part("rollout"):
            rollouts = self.rollouts_of(step)
            batch = self.refill(self.score(rollouts), step)
            self.parts.engine.sleep()
            lost = lost_shares(batch.trajectories, step, self.parts.config.rollout.max_searches)
        with self.next_rollouts_in_background(step, is_kept), self.clock.part("update"):
            groups, checks, check = self.check_policy(batch, step)
            updates = self.update(groups, step, check)
        with self.clock.part("handover"):
            handover = self.hand_over_weights(step)
        records, metrics = step_records(batch.groups, lost, step, self.parts.config)
        self.lengths.learn(records)
        metrics |= warning_metrics(records, self.parts.config.credit)
        metrics |= self.sampling_metrics(batch, groups) | tree_metrics(records)
        if self.parts.judge is not None:
            metrics |= judge_metrics(records)
        metrics |= checks | updates | handover
        line = None
        if self.pool is not None:
            line, counts = self.pool.settle(step, rollouts.batch, records)
            metrics |= counts
        records = with_failed(records, batch.trajectories, step)
        warnings = self.warnings.of_step(step, records, metrics)
        return StepResult(metrics, self.timings(), records, warnings, self.take_load(), line)

    def rollouts_of(self, step: int) -> Rollouts:
        """The rollouts of a step: prefetched during the step before, or sampled now."""
        if step in self.prefetched:
            return self.prefetched.pop(step)
        return self.sample_now(self.questions_of(step))

    def questions_of(self, step: int) -> list[BatchQuestion]:
        """The questions of a step."""
        parts = self.parts
        if not parts.config.data.has_pool:
            return batch_of_step(parts.questions, step, parts.config)
        if self.pool is None:
            lines = read_jsonl(parts.directory / QUESTIONS_NAME)
            self.pool = QuestionPool(parts.questions, parts.config, lines)
        return self.pool.draw(step)

    def sample_now(self, batch: Sequence[BatchQuestion]) -> Rollouts:
        """Roll out this process's share of `batch`. A stop of any process abandons the rollouts."""
        with local_work():
            return self.sample(batch)

    def sample(self, batch: Sequence[BatchQuestion], stop: Event | None = None) -> Rollouts:
        """Roll out this process's share of `batch`. `stop`, set from another thread, cancels."""
        parts, config = self.parts, self.parts.config
        expand = Forest(tree_settings(config)).grow if config.tree.grows else None
        agent = Agent(parts.engine, self.retriever, parts.protocol, agent_settings(config))
        if is_dynamic(config.rollout):
            queues = dealt(self.lengths.longest_first(batch), world_size())
            shared = SharedQuestions(queues, rank(), shared_store())

            def more() -> list[Task]:
                drawn = shared.take()
                return rollout_tasks([drawn] if drawn else [], parts.protocol, config)

            hooks = RolloutHooks(clock=self.clock, stop=stop, more=more, expand=expand)
            return Rollouts(batch, run_agents([], agent, hooks))
        tasks = rollout_tasks(static_share(batch), parts.protocol, config)
        hooks = RolloutHooks(clock=self.clock, stop=stop, expand=expand)
        return Rollouts(batch, run_agents(tasks, agent, hooks))

    def score(self, rollouts: Rollouts) -> ScoredBatch:
        """Form the groups of the rollouts and assign credit."""
        parts = self.parts
        trajectories = rollouts.trajectories
        if is_dynamic(parts.config.rollout):
            trajectories = returned(rollouts.batch, trajectories)
        if parts.judge is not None:
            with local_work(), self.clock.part("judge"):
                trajectories = judged(trajectories, parts.judge)
        positions = {drawn.group: drawn.position for drawn in rollouts.batch}
        models = Models(parts.learner, parts.critic, parts.protocol)
        groups = score(trajectories, positions, parts.config, models)
        return ScoredBatch(trajectories, groups)

    def refill(self, batch: ScoredBatch, step: int) -> ScoredBatch:
        """With dynamic sampling: add rollouts until enough groups have an advantage, at most
        rollout.max_refills times.
        """
        config = self.parts.config
        if not config.rollout.dynamic_sampling:
            return batch
        while batch.refills < config.rollout.max_refills and needs_refill(batch.groups, config):
            refills = batch.refills + 1
            questions = refill_of_step(self.parts.questions, step, refills, config)
            more = self.score(self.sample_now(questions))
            batch = ScoredBatch(
                batch.trajectories + more.trajectories, batch.groups + more.groups, refills
            )
        return batch

    @contextmanager
    def next_rollouts_in_background(self, step: int, is_kept: bool) -> Iterator[None]:
        """With rollout.one_step_off: sample the rollouts of step + 1 while the body runs, and wait
        for them afterwards, unless a stop is asked for.
        """
        if not self.prefetches_after(step, is_kept):
            yield
            return
        next_batch = batch_of_step(self.parts.questions, step + 1, self.parts.config)
        with in_background(lambda stop: self.sample(next_batch, stop)) as result:
            yield
            with self.clock.part("wait"):
                rollouts = result(stopping.requested)
            if rollouts is not None:
                self.prefetched[step + 1] = rollouts

    def prefetches_after(self, step: int, is_kept: bool) -> bool:
        """True where the rollouts of step + 1 are sampled during `step`.

        Not across a checkpoint: a run that is resumed from it samples with the weights of the
        checkpoint, so the run that was never stopped does the same.
        """
        config = self.parts.config
        is_last = step == config.train.steps
        return config.rollout.one_step_off and not (is_last or is_kept)

    def check_policy(
        self, batch: ScoredBatch, step: int
    ) -> tuple[list[ScoredGroup], dict[str, float], PolicyCheck | None]:
        """The groups to train on, as samples of the learner's policy, metrics of the check, and the
        check that is left to the update.
        """
        config = self.parts.config
        groups, metrics, check = as_samples_of_policy(
            batch.groups, self.parts.learner, config, step
        )
        if config.rollout.dynamic_sampling:
            groups = groups_with_advantage(groups, config)
        return groups, metrics, check

    def update(
        self, groups: Sequence[ScoredGroup], step: int, check: PolicyCheck | None = None
    ) -> dict[str, float]:
        """`train.updates_per_step` updates, each on its own portion of the groups; the means of
        their metrics.
        """
        portions = self.parts.config.train.updates_per_step
        rows = [
            self._update_on(
                [group for group in groups if group.position % portions == part], step, check
            )
            for part in range(portions)
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: mean([row[name] for row in rows if name in row]) for name in names}

    def _update_on(
        self, groups: Sequence[ScoredGroup], step: int, check: PolicyCheck | None
    ) -> dict[str, float]:
        config, learner, critic = self.parts.config, self.parts.learner, self.parts.critic
        sequences = [sequence for group in groups for sequence in group.sequences()]
        metrics: dict[str, float] = {}
        if critic is not None:
            metrics |= critic.update_values(sequences)
        if config.kind == "rejection_sampling":
            kept = [sequence for sequence in sequences if any(sequence.advantages)]
            metrics |= learner.update_sft(kept) | {"imitated": all_sum([len(kept)])[0]}
        elif critic is None or step > config.critic.head_start:
            metrics |= learner.update_policy(sequences, check)
        return metrics | check.metrics if check else metrics

    def hand_over_weights(self, step: int) -> dict[str, float]:
        """Give the engine the new weights, as version `step`."""
        parts = self.parts
        gap = hand_over(parts.learner, parts.engine, parts.protocol, parts.config, step)
        return {} if gap is None else {"handover_parity": gap}

    def sampling_metrics(
        self, batch: ScoredBatch, trained: Sequence[ScoredGroup]
    ) -> dict[str, float]:
        """Metrics of dynamic sampling: refills, trained_groups."""
        if not self.parts.config.rollout.dynamic_sampling:
            return {}
        return {"refills": float(batch.refills), "trained_groups": all_sum([len(trained)])[0]}

    def take_load(self) -> RolloutLoad:
        """What was asked of retriever and engine since the last call."""
        engine = self.parts.engine
        return RolloutLoad(
            self.retriever.take() if self.retriever is not None else (),
            engine.take_load() if isinstance(engine, ReportsLoad) else {},
        )

    def timings(self) -> dict[str, float]:
        """Seconds of the step by part: rollout, update, handover, wait, and parts of these."""
        seconds = self.clock.take()
        if self.parts.config.rollout.one_step_off:
            seconds.setdefault("wait", 0.0)
        seconds |= self.parts.learner.core.clock.take()
        if self.parts.critic is not None:
            critic_seconds = self.parts.critic.core.clock.take()
            seconds |= {f"critic_{part}": value for part, value in critic_seconds.items()}
        return seconds


def agent_settings(config: Config) -> AgentSettings:
    """How training rollouts are sampled."""
    rollout = config.rollout
    sampling = Sampling(
        rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_new_tokens, STOP_STRINGS
    )
    return AgentSettings(
        sampling,
        rollout.max_searches,
        config.retriever.k,
        rollout.batch_size,
        rollout.turn_deadline,
        rollout.trajectory_deadline,
        config.retriever.concurrency,
        rollout.max_invalid_turns,
        rollout.exclude_seen,
    )


def tree_settings(config: Config) -> TreeSettings:
    """How the rollouts of a question branch."""
    tree = config.tree
    return TreeSettings(
        tree.branching,
        config.rollout.group_size,
        config.seed,
        roots=tree.roots,
        turns=tree.turns,
        branches=tree.branches,
        budget=tree.budget,
        max_rollouts=tree.max_rollouts,
        entropy_tokens=tree.entropy_tokens,
        least_gain=tree.least_gain,
    )
