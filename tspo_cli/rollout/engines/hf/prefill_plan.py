"""What a prefill of a large model computes: no prefix that another session has, and no padding."""

from __future__ import annotations

import numpy as np
import torch

from tspo_cli.rollout.engines.hf.kv_cache import SlotCache
from tspo_cli.rollout.engines.hf.slots import FREE, Rows, SlotTable

# Shorter prefixes are computed again.
LEAST_SHARED = 16
# A row with as many missing tokens is as fast alone as with others, and needs no padding.
LONG_ROW = 64


def passes(table: SlotTable, due: Rows) -> list[Rows]:
    """The rows of each forward pass: long ones alone, the others together."""
    long = table.total[due] - table.cached[due] >= LONG_ROW
    together = due[~long]
    return [due[index : index + 1] for index in np.flatnonzero(long)] + (
        [together] if together.size else []
    )


def share_prefixes(table: SlotTable, cache: SlotCache, mask: torch.Tensor, due: Rows) -> Rows:
    """Copy what other sessions have cached of the rows `due`, and return the rows to compute now.

    A row waits for another one of them that begins with the same tokens (the prompt of its group,
    or whole turns). Rows that miss only their last token are left to the next decoding step.
    `mask` is the engine's mask of decoding steps.
    """
    now: list[int] = []
    for row in due.tolist():
        common = _common(table, row)
        known = np.minimum(common, table.cached)
        source, start = int(known.argmax()), int(table.cached[row])
        if known[source] >= start + LEAST_SHARED:
            end = int(known[source])
            cache.copy(source, row, start, end)
            mask[row, ..., :end] = 0
            table.cached[row] = end
        waits = bool(now) and common[now].max() >= table.cached[row] + LEAST_SHARED
        if not waits and table.total[row] - table.cached[row] > 1:
            now.append(row)
    return np.array(now, np.int64)


def _common(table: SlotTable, row: int) -> Rows:
    """The number of tokens, without the last one of `row`, that each other session has in common
    with it.
    """
    last = int(table.total[row]) - 1
    different = table.ids[:, :last] != table.ids[row, :last]
    common = np.where(different.any(1), different.argmax(1), last)
    common = np.minimum(common, table.total)
    common[(table.state == FREE) | (np.arange(table.slots) == row)] = 0
    return common
