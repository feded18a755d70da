"""From rollouts to groups with credit: what algorithms need from the models is measured here and
handed to them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tspo_cli.config.schema import Config
from tspo_cli.credit.assign import assign_batch, find_algorithm, with_advantages
from tspo_cli.credit.from_rollouts import group_from_trajectories
from tspo_cli.credit.group import GroupCredit
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, Trajectory
from tspo_cli.training.core.batching import TrainSequence
from tspo_cli.training.core.critic import Critic
from tspo_cli.training.core.distributed import all_sum
from tspo_cli.training.core.learner import Learner
from tspo_cli.training.core.sequences import policy_sequence
from tspo_cli.training.rl.gold_logprobs import gold_logprobs
from tspo_cli.training.rl.returns import gae, kl_to_go, token_rewards, whiten


@dataclass(frozen=True, slots=True)
class TokenCredit:
    """Credit by token where an algorithm has one, [T] each: advantages, returns, and the critic's
    values (or zeros).
    """

    advantages: list[float]
    returns: list[float]
    values: list[float]


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One group after credit assignment. `place` is its place in the step's batch of questions.

    `beliefs` has the gold log-probabilities of each trajectory, `tokens` its credit by token; empty
    where the algorithm has none. `corrected` are the sequences of rollouts that an earlier policy
    sampled, see `off_policy`.
    """

    place: int
    trajectories: tuple[Trajectory, ...]
    credit: GroupCredit
    beliefs: tuple[tuple[float, ...], ...] = ()
    tokens: tuple[TokenCredit, ...] = ()
    corrected: tuple[TrainSequence, ...] = ()

    def sequences(self) -> list[TrainSequence]:
        """The group's trajectories with their advantages, ready for the learner."""
        if self.corrected:
            return list(self.corrected)
        credits = self.credit.trajectories
        plain = [
            policy_sequence(one, own.advantages)
            for one, own in zip(self.trajectories, credits, strict=True)
        ]
        if not self.tokens:
            return plain
        return [
            replace(one, advantages=own.advantages)
            for one, own in zip(plain, self.tokens, strict=True)
        ]

    def value_sequences(self) -> list[TrainSequence]:
        """The same tokens with returns and old values, ready for the critic."""
        return [
            replace(one, advantages=own.returns, old_logprobs=own.values)
            for one, own in zip(self.sequences(), self.tokens, strict=True)
        ]

    def kept(self) -> list[TrainSequence]:
        """The rollouts that rejection sampling imitates."""
        return [one for one in self.sequences() if any(one.advantages)]


def needs_critic(config: Config) -> bool:
    """True where the algorithm has a value model."""
    return config.kind == "rl" and find_algorithm(config.credit.algorithm).needs == "critic"


def score(
    trajectories: Sequence[Trajectory],
    places: Mapping[GroupId, int],
    config: Config,
    learner: Learner,
    critic: Critic | None,
    protocol: SearchProtocol,
) -> list[ScoredGroup]:
    """Groups with credit.

    Left out are trajectories whose search failed, which say nothing about the policy, and those
    that two policies sampled, whose probability nobody knows.
    """
    members: dict[GroupId, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        if not (trajectory.failed or trajectory.mixed):
            members[trajectory.group].append(trajectory)
    beliefs: list[list[list[float]]] = [[] for _ in members]
    if find_algorithm(config.credit.algorithm).needs == "gold_logprobs":
        beliefs = gold_logprobs(
            list(members.values()), learner, protocol, config.credit.belief_prefix
        )
    groups = [
        group_from_trajectories(some, own)
        for some, own in zip(members.values(), beliefs, strict=True)
    ]
    by_token = critic is not None or (config.loss.kl > 0 and config.loss.kl_in == "reward")
    credits = assign_batch(groups, config.credit, all_sum, whiten=not by_token)
    scored = [
        ScoredGroup(places[group], tuple(some), credit, tuple(map(tuple, own)))
        for (group, some), credit, own in zip(members.items(), credits, beliefs, strict=True)
    ]
    return _by_token(scored, config, learner, critic) if by_token else scored


def _by_token(
    groups: Sequence[ScoredGroup], config: Config, learner: Learner, critic: Critic | None
) -> list[ScoredGroup]:
    """Credit of single tokens: from a critic's values, or turn-level credit less the KL that is
    still to come.
    """
    sequences = [sequence for group in groups for sequence in group.sequences()]
    sampled = [[weight > 0 for weight in one.weights] for one in sequences]
    penalties = _kl_penalties(sequences, config, learner)
    found: list[TokenCredit] = []
    if critic is not None:
        options = config.critic
        rewards = [own.turn_rewards for group in groups for own in group.credit.trajectories]
        for one, mask, value, penalty, reward in zip(
            sequences, sampled, critic.values(sequences), penalties, rewards, strict=True
        ):
            earned = [r - p for r, p in zip(token_rewards(one.turns, reward), penalty, strict=True)]
            found.append(TokenCredit(*gae(earned, value, mask, options.gamma, options.lam), value))
    else:
        for one, penalty in zip(sequences, penalties, strict=True):
            returns = [a - p for a, p in zip(one.advantages, kl_to_go(penalty), strict=True)]
            found.append(TokenCredit(returns, returns, [0.0] * len(returns)))
    if critic is None or config.critic.whiten:
        white = whiten([one.advantages for one in found], sampled, config.credit.eps, all_sum)
        found = [replace(one, advantages=row) for one, row in zip(found, white, strict=True)]
    rest = iter(found)
    return [_with_tokens(group, [next(rest) for _ in group.trajectories]) for group in groups]


def _kl_penalties(
    sequences: Sequence[TrainSequence], config: Config, learner: Learner
) -> list[list[float]]:
    """loss.kl times log pi_old - log pi_ref of each sampled token, where the KL is part of the
    reward.
    """
    if not (config.loss.kl > 0 and config.loss.kl_in == "reward"):
        return [[0.0] * len(one.token_ids) for one in sequences]
    reference = learner.reference_logprobs(sequences)
    return [
        [
            config.loss.kl * (old - ref) * (weight > 0)
            for old, ref, weight in zip(one.old_logprobs, row, one.weights, strict=True)
        ]
        for one, row in zip(sequences, reference, strict=True)
    ]


def _with_tokens(group: ScoredGroup, tokens: Sequence[TokenCredit]) -> ScoredGroup:
    """The group with credit by token; the credit by turn, for the record, is the mean over each
    turn's tokens.
    """
    rows = []
    for trajectory, own in zip(group.trajectories, tokens, strict=True):
        by_turn: list[list[float]] = [[] for _ in trajectory.turns]
        for turn, advantage in zip(trajectory.turn_of_token(), own.advantages, strict=True):
            if turn >= 0:
                by_turn[turn].append(advantage)
        rows.append([sum(values) / max(1, len(values)) for values in by_turn])
    return replace(group, credit=with_advantages(group.credit, rows), tokens=tuple(tokens))
