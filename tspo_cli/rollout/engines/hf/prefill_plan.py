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


def copy_prefix(
    table: SlotTable, cache: SlotCache, mask: torch.Tensor, session: int | None, row: int
) -> None:
    """Copy to the new row `row` what `session` has cached of its tokens, except for the last one.
    `mask` is the engine's mask of decoding steps. Does nothing where the session has no slot.
    """
    source = None if session is None or table.cached[row] else table.find(session)
    if source is None:
        return
    most = min(int(table.cached[source]), int(table.total[row]) - 1)
    known = same(table.ids[source, :most], table.ids[row, :most])
    if known:
        cache.copy(source, row, 0, known)
        mask[row, ..., :known] = 0
        table.cached[row] = known


def same(one: Rows, other: Rows) -> int:
    """The number of tokens with which two rows of the same length begin alike."""
    different = np.flatnonzero(one != other)
    return int(different[0]) if different.size else len(one)


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
