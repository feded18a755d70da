"""From rollouts to groups with credit. What an algorithm needs from a model is measured here and
passed to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tspo_cli.config.schema import Config
from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions, Target
from tspo_cli.credit.assign import assign_batch, with_advantages
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.credit.folr import judge
from tspo_cli.credit.from_rollouts import group_from_trajectories
from tspo_cli.credit.group import GroupCredit
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, Trajectory
from tspo_cli.training.core.critic import Critic
from tspo_cli.training.core.distributed import all_sum
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence, policy_sequence
from tspo_cli.training.rl.gold_logprobs import gold_logprobs
from tspo_cli.training.rl.returns import advantages_to_go, estimate, token_rewards, whiten


@dataclass(frozen=True, slots=True)
class TokenCredit:
    """Credit by token where an algorithm has it, [T] each: advantages, and the returns and values
    of a critic (None: there is none).
    """

    advantages: list[float]
    returns: list[float] | None = None
    values: list[float] | None = None


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One group after credit assignment. `position` is its place in the step's batch of questions.

    `gold_logprobs` has the gold log-probabilities of each trajectory, `tokens` its credit by token;
    both are empty where the algorithm has none. `corrected` are the sequences of rollouts that an
    earlier policy sampled, see `off_policy`.
    """

    position: int
    trajectories: tuple[Trajectory, ...]
    credit: GroupCredit
    gold_logprobs: tuple[tuple[float, ...], ...] = ()
    tokens: tuple[TokenCredit, ...] = ()
    corrected: tuple[TrainSequence, ...] = ()

    @property
    def has_advantage(self) -> bool:
        """True where some turn has an advantage other than 0."""
        return self.credit.level != "none"

    def sequences(self) -> list[TrainSequence]:
        """The group's trajectories with their credit, ready for learner and critic."""
        if self.corrected:
            return list(self.corrected)
        by_turn = [
            policy_sequence(trajectory, credit.advantages, credit.clip_scales)
            for trajectory, credit in zip(self.trajectories, self.credit.trajectories, strict=True)
        ]
        if not self.tokens:
            return by_turn
        return [
            replace(
                sequence,
                advantages=tokens.advantages,
                returns=tokens.returns or [],
                old_values=tokens.values or [],
            )
            for sequence, tokens in zip(by_turn, self.tokens, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Models:
    """What credit can be measured with: the policy, a critic (None: the algorithm has none), and
    the protocol that texts become tokens by.
    """

    learner: PolicyLearner
    critic: Critic | None
    protocol: SearchProtocol


def needs_critic(config: Config) -> bool:
    """True where the algorithm has a value model."""
    return config.kind == "rl" and "critic" in find_algorithm(config.credit.algorithm).needs


def score(
    trajectories: Sequence[Trajectory],
    positions: Mapping[GroupId, int],
    config: Config,
    models: Models,
) -> list[ScoredGroup]:
    """Groups with credit; `positions` are their places in the batch.

    Three kinds of trajectories are left out: those that failed, which say nothing about the policy,
    those that two versions of the policy sampled, whose probability is unknown, and those without
    a turn of their own, because the server refused their first request.
    """
    members: dict[GroupId, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        if trajectory.own_turns and not (trajectory.failed or trajectory.mixed):
            members[trajectory.group].append(trajectory)
    gold: list[list[list[float]]] = [[] for _ in members]
    algorithm = find_algorithm(config.credit.algorithm)
    options = algorithm.options_in(config.credit)
    measured = options if isinstance(options, GoldLogprobOptions) else GoldLogprobOptions()
    if "gold_logprobs" in algorithm.needs and measured.measures:
        gold = gold_logprobs(
            list(members.values()),
            [_targets(group_members, config, measured) for group_members in members.values()],
            models.learner,
            models.protocol,
            measured,
        )
    groups = [
        group_from_trajectories(group_members, logprobs)
        for group_members, logprobs in zip(members.values(), gold, strict=True)
    ]
    has_token_credit = models.critic is not None or _kl_in_reward(config)
    credits = assign_batch(groups, config.credit, all_sum, whiten=not has_token_credit)
    scored = [
        ScoredGroup(positions[group], tuple(group_members), credit, tuple(map(tuple, logprobs)))
        for (group, group_members), credit, logprobs in zip(
            members.items(), credits, gold, strict=True
        )
    ]
    return _with_token_credit(scored, config, models) if has_token_credit else scored


def _targets(
    members: Sequence[Trajectory], config: Config, options: GoldLogprobOptions
) -> list[Target]:
    """The answers whose probability is measured for a group."""
    group = group_from_trajectories(members)
    judged = [
        judge(trajectory, group.golden_answers, config.credit) for trajectory in group.trajectories
    ]
    return options.targets(group.golden_answers, judged)


def _kl_in_reward(config: Config) -> bool:
    return config.loss.kl > 0 and config.loss.kl_in == "reward"


def _with_token_credit(
    groups: Sequence[ScoredGroup], config: Config, models: Models
) -> list[ScoredGroup]:
    """The groups with credit of single tokens: from a critic's values, or turn-level credit less
    the KL of the tokens that follow.
    """
    sequences = [sequence for group in groups for sequence in group.sequences()]
    sampled = [[weight > 0 for weight in sequence.weights] for sequence in sequences]
    penalties = _kl_penalties(sequences, config, models.learner)
    if models.critic is not None:
        turn_rewards = [
            credit.turn_rewards for group in groups for credit in group.credit.trajectories
        ]
        credits = _critic_credits(sequences, turn_rewards, penalties, config, models.critic)
    else:
        credits = [
            TokenCredit(advantages_to_go(sequence.advantages, penalty))
            for sequence, penalty in zip(sequences, penalties, strict=True)
        ]
    if models.critic is None or config.critic.whiten:
        white = whiten([row.advantages for row in credits], sampled, config.credit.eps, all_sum)
        credits = [
            replace(credit, advantages=advantages)
            for credit, advantages in zip(credits, white, strict=True)
        ]
    remaining = iter(credits)
    return [_with_tokens(group, [next(remaining) for _ in group.trajectories]) for group in groups]


def _critic_credits(
    sequences: Sequence[TrainSequence],
    turn_rewards: Sequence[Sequence[float]],
    penalties: Sequence[Sequence[float]],
    config: Config,
    critic: Critic,
) -> list[TokenCredit]:
    """Generalised advantage estimation with the critic's values; `penalties` [T] are subtracted
    from the rewards.
    """
    credits = []
    for sequence, values, penalty, by_turn in zip(
        sequences, critic.values(sequences), penalties, turn_rewards, strict=True
    ):
        rewards = [
            reward - kl
            for reward, kl in zip(token_rewards(sequence.turns, by_turn), penalty, strict=True)
        ]
        advantages, returns = estimate(rewards, values, sequence.turns, config.critic)
        credits.append(TokenCredit(advantages, returns, values))
    return credits


def _kl_penalties(
    sequences: Sequence[TrainSequence], config: Config, learner: PolicyLearner
) -> list[list[float]]:
    """loss.kl times log pi_old - log pi_ref of each sampled token, where the KL is part of the
    reward; zeros elsewhere.
    """
    if not _kl_in_reward(config):
        return [[0.0] * len(sequence.token_ids) for sequence in sequences]
    reference = learner.reference_logprobs(sequences)
    return [
        [
            config.loss.kl * (old - ref) * (weight > 0)
            for old, ref, weight in zip(
                sequence.old_logprobs, logprobs, sequence.weights, strict=True
            )
        ]
        for sequence, logprobs in zip(sequences, reference, strict=True)
    ]


def _with_tokens(group: ScoredGroup, tokens: Sequence[TokenCredit]) -> ScoredGroup:
    """The group with credit by token. Its credit by turn, which is recorded, is the mean over each
    turn's tokens.
    """
    rows = []
    for trajectory, token_credit in zip(group.trajectories, tokens, strict=True):
        by_turn: list[list[float]] = [[] for _ in trajectory.turns]
        for turn, advantage in zip(
            trajectory.turn_of_token(), token_credit.advantages, strict=True
        ):
            if turn >= 0:
                by_turn[turn].append(advantage)
        rows.append([sum(values) / max(1, len(values)) for values in by_turn])
    return replace(group, credit=with_advantages(group.credit, rows), tokens=tuple(tokens))
