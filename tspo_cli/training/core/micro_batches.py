"""Micro-batches of training sequences, packed or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tspo_cli.models.packed_attention import Ranges, Segments, forward_packed
from tspo_cli.training.core.sequences import TrainSequence

PADDING_LENGTH = 2
"""Tokens of a batch without effect."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences as the model takes them, and the N trained tokens among them.

    Packed: token_ids [1, L], one sequence after the other, with `packing`; positions restart at 0
    in each sequence. Tokens that begin several sequences may be there once. Padded: token_ids [B,
    L], padding on the right, `packing` is None.

    A trained token that several sequences have in common is predicted once. `rows` and `columns`
    [M]: the positions that the M <= N distinct ones are predicted from (one before their own);
    `targets` [M]: their ids; `copies` [N]: which of them each trained token is (None: M is N).
    weights, coefficients, advantages, old_logprobs, returns, old_values [N]: see
    `TrainSequence`; `coefficients` are the shares of the loss. `sequences` [N]: each token's
    sequence in this batch. `segments` [N]: its turn, numbered through the batch. `indices` [N]: its
    index in the sequence. `clip_scales` [N]: the factor of its clip range, None where all are 1.
    `members`: the index of each sequence in the caller's list (-1: padding).
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
    returns: torch.Tensor
    old_values: torch.Tensor
    sequences: torch.Tensor
    segments: torch.Tensor
    indices: torch.Tensor
    members: tuple[int, ...]
    packing: Segments | None = None
    clip_scales: torch.Tensor | None = None
    copies: torch.Tensor | None = None

    @property
    def is_padding(self) -> bool:
        """True for a batch without effect, see `padding_batch`."""
        return self.members == (-1,)

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on another device."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        tensors = {
            name: value.to(device) for name, value in values.items() if torch.is_tensor(value)
        }
        packing = self.packing and replace(
            self.packing, boundaries=self.packing.boundaries.to(device)
        )
        return replace(self, **values | tensors | {"packing": packing})

    def hidden(self, base_model: Any) -> torch.Tensor:
        """The last hidden states [M, d] from which the distinct trained tokens are predicted.

        Padding is on the right, so causal attention never sees it and no mask is needed.
        """
        if self.packing is None:
            output = base_model(
                input_ids=self.token_ids, position_ids=self.positions, use_cache=False
            )
        else:
            output = forward_packed(base_model, self.token_ids, self.positions, self.packing)
        return output.last_hidden_state[self.rows, self.columns]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values [M] of the distinct trained tokens as those of all trained tokens [N]."""
        return values if self.copies is None else values[self.copies]


def micro_batches(
    sequences: Sequence[TrainSequence],
    coefficients: Sequence[Sequence[float]],
    budget: int,
    *,
    packed: bool = True,
    shared: bool = False,
) -> list[MicroBatch]:
    """Micro-batches of at most `budget` tokens each, padding included. A longer sequence gets a
    batch of its own.

    With `shared`, packed sequences of a batch that begin with the same tokens (a prompt, or whole
    turns) have them in common: they go through the model once.

    `coefficients` [len(sequences)][T] is each token's share of the loss. Sequences without a
    trained token are left out. Tokens after the last trained one of a sequence are cut off: nothing
    is predicted from them.
    """
    lengths = {
        index: _used_length(sequence)
        for index, sequence in enumerate(sequences)
        if any(sequence.weights)
    }
    order = sorted(lengths, key=lambda index: -lengths[index])
    if not packed:
        groups = _rectangles(order, lengths, budget)
    elif shared:
        groups = _fill_sharing(sequences, lengths, budget)
    else:
        groups = _fill(order, lengths, budget)
    return [_micro_batch(sequences, coefficients, members, packed, shared) for members in groups]


def padding_batch(*, packed: bool = True) -> MicroBatch:
    """A micro-batch without effect, for a process that has fewer batches than the others."""
    empty = TrainSequence([0] * PADDING_LENGTH, [0.0, 0.5])
    batch = _micro_batch([empty], [[0.0, 0.0]], [0], packed)
    return replace(batch, members=(-1,))


def _used_length(sequence: TrainSequence) -> int:
    """Tokens up to the last trained one."""
    return max(index for index, weight in enumerate(sequence.weights) if weight) + 1


def _fill(order: Sequence[int], lengths: dict[int, int], budget: int) -> list[list[int]]:
    """First-fit decreasing: each sequence goes into the first batch that has room."""
    groups: list[list[int]] = []
    room: list[int] = []
    for index in order:
        target = next((group for group, free in enumerate(room) if free >= lengths[index]), None)
        if target is None:
            groups.append([index])
            room.append(budget - lengths[index])
        else:
            groups[target].append(index)
            room[target] -= lengths[index]
    return groups


def _fill_sharing(
    sequences: Sequence[TrainSequence], lengths: dict[int, int], budget: int
) -> list[list[int]]:
    """Sequences in the order of their tokens, so that those with the most in common are
    neighbours. Common tokens count once.
    """
    order = sorted(lengths, key=lambda index: sequences[index].token_ids[: lengths[index]])
    groups: list[list[int]] = []
    used, before = 0, list[int]()
    for index in order:
        ids = sequences[index].token_ids[: lengths[index]]
        new = len(ids) - _common(before, ids)
        if groups and used + new <= budget:
            groups[-1].append(index)
            used += new
        else:
            groups.append([index])
            used = len(ids)
        before = ids
    return groups


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass(frozen=True, slots=True)
class _Row:
    """Where packed sequences lie: the column of each token of each sequence, and the segments."""

    columns: list[list[int]]
    segments: Segments

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], shared: bool) -> _Row:
        """A row of sequences. With `shared`, a sequence begins in the columns of the one before
        it, as far as their tokens are the same.
        """
        columns, lengths, prefixes = list[list[int]](), list[int](), list[Ranges]()
        path: Ranges = ()
        end = 0
        for number, row in enumerate(ids):
            known = _common(ids[number - 1], row) if shared and number else 0
            new = len(row) - known
            path = _first(path, known)
            columns.append([*(columns[-1][:known] if known else ()), *range(end, end + new)])
            if new:
                lengths.append(new)
                prefixes.append(path)
                path = (*path, (end, end + new))
                end += new
        return cls(columns, Segments.of(tuple(lengths), torch.device("cpu"), tuple(prefixes)))


def _first(ranges: Ranges, count: int) -> Ranges:
    """The first `count` positions of the ranges."""
    first: list[tuple[int, int]] = []
    for start, end in ranges:
        taken = min(end - start, count)
        if taken:
            first.append((start, start + taken))
        count -= taken
    return tuple(first)


def _rectangles(order: Sequence[int], lengths: dict[int, int], budget: int) -> list[list[int]]:
    """Sequences of similar length together, longest first."""
    groups: list[list[int]] = []
    for index in order:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _micro_batch(
    sequences: Sequence[TrainSequence],
    coefficients: Sequence[Sequence[float]],
    members: Sequence[int],
    packed: bool,
    shared: bool = False,
) -> MicroBatch:
    chosen = [sequences[index] for index in members]
    lengths = [_used_length(sequence) for sequence in chosen]
    ids = [sequence.token_ids[:length] for sequence, length in zip(chosen, lengths, strict=True)]
    packing = _Row.of(ids, shared) if packed else None
    columns = packing.columns if packing else [list(range(length)) for length in lengths]
    width = sum(packing.segments.lengths) if packing else max(lengths)
    token_ids = torch.zeros(1 if packed else len(members), width, dtype=torch.long)
    positions = torch.arange(width).repeat(len(token_ids), 1)
    # (sequence in this batch, index in the sequence) of every trained token
    trained = [
        (number, index)
        for number, (sequence, length) in enumerate(zip(chosen, lengths, strict=True))
        for index, weight in enumerate(sequence.weights[:length])
        if weight
    ]
    rows = [0 if packed else number for number in range(len(chosen))]
    for row, places, tokens in zip(rows, columns, ids, strict=True):
        token_ids[row, places] = torch.tensor(tokens)
        positions[row, places] = torch.arange(len(tokens))
    # (row, column, target) of every distinct one
    distinct: dict[tuple[int, int, int], int] = {}
    copies = [
        distinct.setdefault(
            (rows[number], columns[number][index - 1], chosen[number].token_ids[index]),
            len(distinct),
        )
        for number, index in trained
    ]
    turns: dict[tuple[int, int], int] = {}
    for number, index in trained:
        turns.setdefault((number, _turn(chosen[number], index)), len(turns))

    def integers(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long)

    def numbers(name: str) -> torch.Tensor:
        values = [getattr(sequence, name) for sequence in chosen]
        return torch.tensor(
            [values[number][index] for number, index in trained], dtype=torch.float32
        )

    return MicroBatch(
        token_ids=token_ids,
        positions=positions,
        rows=integers([row for row, _, _ in distinct]),
        columns=integers([column for _, column, _ in distinct]),
        targets=integers([target for _, _, target in distinct]),
        weights=numbers("weights"),
        coefficients=torch.tensor(
            [coefficients[members[number]][index] for number, index in trained],
            dtype=torch.float32,
        ),
        advantages=numbers("advantages"),
        old_logprobs=numbers("old_logprobs"),
        returns=numbers("returns"),
        old_values=numbers("old_values"),
        sequences=integers([number for number, _ in trained]),
        segments=integers(
            [turns[number, _turn(chosen[number], index)] for number, index in trained]
        ),
        indices=integers([index for _, index in trained]),
        members=tuple(members),
        packing=packing.segments if packing else None,
        clip_scales=_clip_scales(chosen, trained),
        copies=integers(copies) if len(distinct) < len(trained) else None,
    )


def _clip_scales(
    sequences: Sequence[TrainSequence], trained: Sequence[tuple[int, int]]
) -> torch.Tensor | None:
    """[N] for the tokens `trained`, (sequence, index in it)."""
    rows = [sequence.clip_scales for sequence in sequences]
    if not any(rows):
        return None
    values = [rows[number][index] if rows[number] else 1.0 for number, index in trained]
    return torch.tensor(values, dtype=torch.float32)


def _turn(sequence: TrainSequence, index: int) -> int:
    return sequence.turns[index] if sequence.turns else 0
