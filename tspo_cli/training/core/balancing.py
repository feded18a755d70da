"""Sequences exchanged between the training processes so that all have about the same number of
tokens: every process waits for the one that has the most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tspo_cli.training.core.distributed import gather_json, gather_table, rank
from tspo_cli.training.core.sequences import TrainSequence

# token id, weight, advantage, old log-prob, return, old value, turn, share of the loss
_COLUMNS = 8


def assign(lengths: Sequence[Sequence[int]]) -> list[list[int]]:
    """The process that trains each sequence of each process, [processes][n]; `lengths` are their
    tokens.

    Longest first, to the process with the fewest tokens so far (Graham 1969), the lowest rank among
    equals.
    """
    load = [0] * len(lengths)
    targets = [[0] * len(row) for row in lengths]
    order = [
        (-tokens, source, index)
        for source, row in enumerate(lengths)
        for index, tokens in enumerate(row)
    ]
    for tokens, source, index in sorted(order):
        target = load.index(min(load))
        targets[source][index] = target
        load[target] -= tokens
    return targets


@dataclass(frozen=True)
class Exchange:
    """Which process trains which sequences: their `lengths` and the `targets`, both
    [processes][n].
    """

    lengths: list[list[int]]
    targets: list[list[int]]

    @classmethod
    def of(cls, sequences: Sequence[TrainSequence]) -> Exchange:
        """The exchange of the sequences of all processes; every process calls it."""
        lengths = gather_json([len(sequence.token_ids) for sequence in sequences])
        return cls(lengths, assign(lengths))

    def spread(
        self, sequences: Sequence[TrainSequence], shares: Sequence[Sequence[float]]
    ) -> tuple[list[TrainSequence], list[list[float]]]:
        """The sequences that this process trains, and their shares of the loss."""
        rows = [
            row
            for sequence, share in zip(sequences, shares, strict=True)
            for row in _rows(sequence, share)
        ]
        tables = gather_table(torch.tensor(rows, dtype=torch.float64).reshape(-1, _COLUMNS))
        assigned, assigned_shares = [], []
        for source, index in self._assigned_to(rank()):
            table = tables[source][self._span(source, index)]
            ids, weights, advantages, logprobs, returns, values, turns, share = table.T.tolist()
            assigned.append(
                TrainSequence(
                    token_ids=[int(token) for token in ids],
                    weights=weights,
                    advantages=advantages,
                    old_logprobs=logprobs,
                    turns=[int(turn) for turn in turns] if turns[0] >= 0 else [],
                    returns=returns,
                    old_values=values,
                )
            )
            assigned_shares.append(share)
        return assigned, assigned_shares

    def collect(self, values: Sequence[Sequence[float]]) -> list[list[float]]:
        """Send a value per token of the sequences of `spread` back to their owners; returns those
        of this process's own sequences.
        """
        column = [[value] for row in values for value in row]
        tables = gather_table(torch.tensor(column, dtype=torch.float64).reshape(-1, 1))
        collected: list[list[float]] = [[] for _ in self.lengths[rank()]]
        for worker, table in enumerate(tables):
            start = 0
            for source, index in self._assigned_to(worker):
                stop = start + self.lengths[source][index]
                if source == rank():
                    collected[index] = table[start:stop, 0].tolist()
                start = stop
        return collected

    def _assigned_to(self, worker: int) -> Iterator[tuple[int, int]]:
        """(process, index) of the sequences that `worker` trains, in its order."""
        for source, targets in enumerate(self.targets):
            yield from ((source, index) for index, target in enumerate(targets) if target == worker)

    def _span(self, source: int, index: int) -> slice:
        start = sum(self.lengths[source][:index])
        return slice(start, start + self.lengths[source][index])


def _rows(sequence: TrainSequence, shares: Sequence[float]) -> zip[tuple[float, ...]]:
    return zip(
        sequence.token_ids,
        sequence.weights,
        sequence.advantages,
        sequence.old_logprobs,
        sequence.returns,
        sequence.old_values,
        sequence.turns or [-1] * len(sequence.token_ids),
        shares,
        strict=True,
    )
