"""Sequences spread over the training processes so that all have about the same number of tokens:
whoever has the most, the others wait for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tspo_cli.training.core.batching import TrainSequence
from tspo_cli.training.core.distributed import gather_json, gather_table, rank

_COLUMNS = 6  # token id, weight, advantage, old log-prob, turn, share of the loss


def assign(lengths: Sequence[Sequence[int]]) -> list[list[int]]:
    """For every sequence of every process (its tokens, [processes][n]) the process that works on
    it: longest first, to whoever has the fewest tokens so far (Graham 1969), the lowest process
    among equals.
    """
    load = [0] * len(lengths)
    chosen = [[0] * len(own) for own in lengths]
    places = [
        (-tokens, source, place)
        for source, own in enumerate(lengths)
        for place, tokens in enumerate(own)
    ]
    for tokens, source, place in sorted(places):
        target = load.index(min(load))
        chosen[source][place] = target
        load[target] -= tokens
    return chosen


@dataclass(frozen=True)
class Exchange:
    """Who works on whose sequences: their `lengths` and the `targets`, both [processes][n]."""

    lengths: list[list[int]]
    targets: list[list[int]]

    @classmethod
    def of(cls, sequences: Sequence[TrainSequence]) -> Exchange:
        """The exchange of what all processes have; every one of them calls this."""
        lengths = gather_json([len(one.token_ids) for one in sequences])
        return cls(lengths, assign(lengths))

    def spread(
        self, sequences: Sequence[TrainSequence], shares: Sequence[Sequence[float]]
    ) -> tuple[list[TrainSequence], list[list[float]]]:
        """What this process works on, with its shares of the loss."""
        rows = [row for one, own in zip(sequences, shares, strict=True) for row in _rows(one, own)]
        tables = gather_table(torch.tensor(rows, dtype=torch.float64).reshape(-1, _COLUMNS))
        found, own_shares = [], []
        for source, place in self._worked_on(rank()):
            ids, weights, advantages, old, turns, share = tables[source][
                self._span(source, place)
            ].T.tolist()
            kept = [int(turn) for turn in turns] if turns[0] >= 0 else []
            found.append(TrainSequence([int(one) for one in ids], weights, advantages, old, kept))
            own_shares.append(share)
        return found, own_shares

    def collect(self, values: Sequence[Sequence[float]]) -> list[list[float]]:
        """A value per token of what `spread` gave, back to its owners: those of this process's own
        sequences.
        """
        tables = gather_table(
            torch.tensor([[one] for row in values for one in row], dtype=torch.float64).reshape(
                -1, 1
            )
        )
        found: list[list[float]] = [[] for _ in self.lengths[rank()]]
        for worker, table in enumerate(tables):
            start = 0
            for source, place in self._worked_on(worker):
                stop = start + self.lengths[source][place]
                if source == rank():
                    found[place] = table[start:stop, 0].tolist()
                start = stop
        return found

    def _worked_on(self, worker: int) -> Iterator[tuple[int, int]]:
        """(process, place) of the sequences that `worker` works on, in the order in which it has
        them.
        """
        for source, targets in enumerate(self.targets):
            yield from ((source, place) for place, target in enumerate(targets) if target == worker)

    def _span(self, source: int, place: int) -> slice:
        start = sum(self.lengths[source][:place])
        return slice(start, start + self.lengths[source][place])


def _rows(one: TrainSequence, shares: Sequence[float]) -> zip[tuple[float, ...]]:
    turns = one.turns or [-1] * len(one.token_ids)
    return zip(
        one.token_ids, one.weights, one.advantages, one.old_logprobs, turns, shares, strict=True
    )
