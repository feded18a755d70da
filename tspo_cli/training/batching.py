"""Sequences with their training targets, and padded micro-batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One sequence of T tokens. Entry t of each list belongs to token t, which is predicted from the tokens before it.

    `weights` 0 is not trained (and must be 0 for the first token). `advantages` and `old_logprobs` (nats, of the policy
    that sampled) matter to policy updates alone; `turns`, the turn of each token, to the turn ratio (empty: one turn).
    """

    token_ids: list[int]
    weights: list[float]
    advantages: list[float]
    old_logprobs: list[float]
    turns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.weights), len(self.advantages), len(self.old_logprobs)}
        lengths |= {len(self.turns)} if self.turns else set()
        if len(lengths) != 1 or not self.token_ids:
            raise ValueError(f"a training sequence needs four lists of the same length, got {sorted(lengths)}")
        if self.weights[0]:
            raise ValueError("the first token is predicted from nothing: its weight must be 0")


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B sequences padded on the right to L, and the N trained tokens among them.

    token_ids [B, L]; `rows` and `columns` [N] say from which position each trained token is predicted (one before its
    own); targets, weights, coefficients, advantages, old_logprobs [N]; `sequences` and `segments` [N] number the
    sequence and the turn that a token belongs to. `members`: the B places in the caller's list (-1: padding).
    """

    token_ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    coefficients: torch.Tensor
    advantages: torch.Tensor
    old_logprobs: torch.Tensor
    sequences: torch.Tensor
    segments: torch.Tensor
    members: tuple[int, ...]

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        tensors = {name: getattr(self, name).to(device) for name in self.__slots__ if name != "members"}
        return replace(self, **tensors)


def micro_batches(
    sequences: Sequence[TrainSequence], coefficients: Sequence[Sequence[float]], budget: int
) -> list[MicroBatch]:
    """Micro-batches of at most `budget` padded tokens each (a longer sequence stands alone), longest first.

    `coefficients` [len(sequences)][T] is each token's share of the loss. Sequences without a trained token are left
    out.
    """
    trained = [place for place, one in enumerate(sequences) if any(one.weights)]
    order = sorted(trained, key=lambda place: -len(sequences[place].token_ids))
    groups: list[list[int]] = []
    for place in order:
        if groups and len(sequences[groups[-1][0]].token_ids) * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(place)
        else:
            groups.append([place])
    return [_micro_batch(sequences, coefficients, members) for members in groups]


def padding_batch() -> MicroBatch:
    """A micro-batch without effect, for a process that has fewer than the others."""
    empty = TrainSequence([0, 0], [0.0, 0.5], [0.0, 0.0], [0.0, 0.0])
    return replace(_micro_batch([empty], [[0.0, 0.0]], [0]), members=(-1,))


def _micro_batch(
    sequences: Sequence[TrainSequence], coefficients: Sequence[Sequence[float]], members: Sequence[int]
) -> MicroBatch:
    longest = max(len(sequences[place].token_ids) for place in members)
    token_ids = torch.zeros(len(members), longest, dtype=torch.long)
    rows, columns, targets = [], [], []
    weights, shares, advantages, old = [], [], [], []
    owners, segments = list[int](), list[int]()
    numbers: dict[tuple[int, int], int] = {}
    for row, place in enumerate(members):
        one = sequences[place]
        token_ids[row, : len(one.token_ids)] = torch.tensor(one.token_ids)
        for column, weight in enumerate(one.weights):
            if weight:
                rows.append(row)
                columns.append(column - 1)
                targets.append(one.token_ids[column])
                weights.append(weight)
                shares.append(coefficients[place][column])
                advantages.append(one.advantages[column])
                old.append(one.old_logprobs[column])
                owners.append(row)
                turn = one.turns[column] if one.turns else 0
                segments.append(numbers.setdefault((row, turn), len(numbers)))
    return MicroBatch(
        token_ids,
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(columns, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(weights, dtype=torch.float32),
        torch.tensor(shares, dtype=torch.float32),
        torch.tensor(advantages, dtype=torch.float32),
        torch.tensor(old, dtype=torch.float32),
        torch.tensor(owners, dtype=torch.long),
        torch.tensor(segments, dtype=torch.long),
        tuple(members),
    )
