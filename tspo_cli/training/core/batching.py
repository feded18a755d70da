"""Sequences with their training targets, and micro-batches of them, packed or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tspo_cli.models.packed_attention import Segments, forward_packed


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One sequence of T tokens. Entry t of each list belongs to token t, which is predicted from
    the tokens before it.

    `weights` 0 is not trained (and must be 0 for the first token). `advantages` and `old_logprobs`
    (nats, of the policy that sampled) matter to policy updates alone; `turns`, the turn of each
    token, to the turn ratio (empty: one turn).
    """

    token_ids: list[int]
    weights: list[float]
    advantages: list[float]
    old_logprobs: list[float]
    turns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        lengths = {
            len(self.token_ids),
            len(self.weights),
            len(self.advantages),
            len(self.old_logprobs),
        }
        lengths |= {len(self.turns)} if self.turns else set()
        if len(lengths) != 1 or not self.token_ids:
            raise ValueError(
                f"a training sequence needs four lists of the same length, got {sorted(lengths)}"
            )
        if self.weights[0]:
            raise ValueError("the first token is predicted from nothing: its weight must be 0")


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences as the model takes them, and the N trained tokens among them.

    Packed: token_ids [1, L], one sequence after the other, with `packing` and positions that start
    anew in each. Padded: token_ids [B, L], padding on the right, `packing` None. `rows` and
    `columns` [N] say from which position each trained token is predicted (one before its own);
    targets, weights, coefficients, advantages, old_logprobs [N]. `sequences`, `segments` and
    `places` [N] number each token's sequence in this batch, its turn among all turns of the batch,
    and its place in the sequence. `members`: the sequences of this batch in the caller's list (-1:
    padding).
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    coefficients: torch.Tensor
    advantages: torch.Tensor
    old_logprobs: torch.Tensor
    sequences: torch.Tensor
    segments: torch.Tensor
    places: torch.Tensor
    members: tuple[int, ...]
    packing: Segments | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        tensors = {
            name: value.to(device) for name, value in values.items() if torch.is_tensor(value)
        }
        packing = self.packing and Segments(
            self.packing.lengths, self.packing.boundaries.to(device)
        )
        return replace(self, **values | tensors | {"packing": packing})

    def hidden(self, base_model: Any) -> torch.Tensor:
        """The last hidden states [N, d] from which the trained tokens are predicted.

        Padding is on the right, so causal attention never sees it and no mask is needed.
        """
        if self.packing is None:
            output = base_model(
                input_ids=self.token_ids, position_ids=self.positions, use_cache=False
            )
        else:
            output = forward_packed(base_model, self.token_ids, self.positions, self.packing)
        return output.last_hidden_state[self.rows, self.columns]


def micro_batches(
    sequences: Sequence[TrainSequence],
    coefficients: Sequence[Sequence[float]],
    budget: int,
    *,
    packed: bool = True,
) -> list[MicroBatch]:
    """Micro-batches of at most `budget` tokens each, padding included (a longer sequence stands
    alone).

    `coefficients` [len(sequences)][T] is each token's share of the loss. Sequences without a
    trained token are left out, and so is what follows the last trained token of a sequence: nothing
    is predicted from it.
    """
    trained = [place for place, one in enumerate(sequences) if any(one.weights)]
    lengths = {place: _used(sequences[place]) for place in trained}
    order = sorted(trained, key=lambda place: -lengths[place])
    groups = _fill(order, lengths, budget) if packed else _rectangles(order, lengths, budget)
    return [_micro_batch(sequences, coefficients, members, packed) for members in groups]


def padding_batch(*, packed: bool = True) -> MicroBatch:
    """A micro-batch without effect, for a process that has fewer than the others."""
    empty = TrainSequence([0, 0], [0.0, 0.5], [0.0, 0.0], [0.0, 0.0])
    batch = _micro_batch([empty], [[0.0, 0.0]], [0], packed)
    return replace(batch, members=(-1,))


def _used(one: TrainSequence) -> int:
    """Tokens up to the last trained one."""
    return max(place for place, weight in enumerate(one.weights) if weight) + 1


def _fill(order: Sequence[int], lengths: dict[int, int], budget: int) -> list[list[int]]:
    """First-fit decreasing: each sequence into the first batch that has room."""
    groups: list[list[int]] = []
    room: list[int] = []
    for place in order:
        found = next((index for index, free in enumerate(room) if free >= lengths[place]), None)
        if found is None:
            groups.append([place])
            room.append(budget - lengths[place])
        else:
            groups[found].append(place)
            room[found] -= lengths[place]
    return groups


def _rectangles(order: Sequence[int], lengths: dict[int, int], budget: int) -> list[list[int]]:
    """Sequences of similar length together, longest first."""
    groups: list[list[int]] = []
    for place in order:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _micro_batch(
    sequences: Sequence[TrainSequence],
    coefficients: Sequence[Sequence[float]],
    members: Sequence[int],
    packed: bool,
) -> MicroBatch:
    lengths = [_used(sequences[place]) for place in members]
    width = sum(lengths) if packed else max(lengths)
    token_ids = torch.zeros(1 if packed else len(members), width, dtype=torch.long)
    positions = torch.arange(width).repeat(len(token_ids), 1)
    rows, columns, targets, numbers, places = [], [], [], [], []
    weights, shares, advantages, old = [], [], [], []
    segments: list[int] = []
    turns: dict[tuple[int, int], int] = {}
    start = 0
    for index, (place, length) in enumerate(zip(members, lengths, strict=True)):
        one, row = sequences[place], 0 if packed else index
        token_ids[row, start : start + length] = torch.tensor(one.token_ids[:length])
        if packed:
            positions[0, start : start + length] = torch.arange(length)
        for column, weight in enumerate(one.weights[:length]):
            if weight:
                rows.append(row)
                columns.append(start + column - 1)
                targets.append(one.token_ids[column])
                numbers.append(index)
                segments.append(
                    turns.setdefault((index, one.turns[column] if one.turns else 0), len(turns))
                )
                places.append(column)
                weights.append(weight)
                shares.append(coefficients[place][column])
                advantages.append(one.advantages[column])
                old.append(one.old_logprobs[column])
        start += length if packed else 0
    whole, real = torch.long, torch.float32
    return MicroBatch(
        token_ids=token_ids,
        positions=positions,
        rows=torch.tensor(rows, dtype=whole),
        columns=torch.tensor(columns, dtype=whole),
        targets=torch.tensor(targets, dtype=whole),
        weights=torch.tensor(weights, dtype=real),
        coefficients=torch.tensor(shares, dtype=real),
        advantages=torch.tensor(advantages, dtype=real),
        old_logprobs=torch.tensor(old, dtype=real),
        sequences=torch.tensor(numbers, dtype=whole),
        segments=torch.tensor(segments, dtype=whole),
        places=torch.tensor(places, dtype=whole),
        members=tuple(members),
        packing=Segments.of(tuple(lengths), torch.device("cpu")) if packed else None,
    )
