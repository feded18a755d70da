"""A key-value cache for many sessions: one preallocated block per layer, with the interface of
transformers' Cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

FIRST_COLUMNS = 128
BLOCK_COLUMNS = 64
"""Columns by which a cache grows whose blocks are read whole."""


@dataclass(slots=True)
class _Window:
    """What one forward pass reads, the first `columns` of `slots`, and where it writes its tokens,
    row after row: to `new_columns` of `new_slots`.
    """

    slots: slice | torch.Tensor
    columns: int
    new_slots: torch.Tensor
    new_columns: torch.Tensor


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [slots, kv_heads, columns, head_dim]. The first forward pass
    allocates them.
    """

    is_sliding = False

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()
        self.owner = owner
        self.blocks: list[torch.Tensor] = []

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.blocks = [
            states.new_zeros(self.owner.slots, states.shape[1], self.owner.columns, states.shape[3])
            for states in (key_states, value_states)
        ]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the states [rows, kv_heads, new, head_dim] and return the window [rows, kv_heads,
        columns, head_dim].
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.blocks
        return self._store(keys, key_states), self._store(values, value_states)

    def _store(self, block: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        window = self.owner.window
        block[window.new_slots, :, window.new_columns] = states.transpose(1, 2).flatten(0, 1)
        return block[window.slots, :, : window.columns]

    def release(self) -> None:
        """Free the blocks. The next forward pass allocates them again."""
        self.blocks, self.is_initialized = [], False

    def grow(self, columns: int) -> None:
        """Allocate more columns and keep the contents."""
        self.blocks = [_widened(block, columns) for block in self.blocks]

    def swap(self, a: int, b: int, columns: int) -> None:
        """Exchange the first columns of two slots."""
        for block in self.blocks:
            block[[a, b], :, :columns] = block[[b, a], :, :columns]

    def copy(self, source: int, target: int, columns: slice) -> None:
        """Copy the same columns from slot to slot."""
        for block in self.blocks:
            block[target, :, columns] = block[source, :, columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.window.columns, 0

    def get_seq_length(self) -> int:
        return self.owner.window.columns

    def get_max_length(self) -> int:
        return self.owner.max_columns


class SlotCache(Cache):
    """A cache whose slots have different lengths. The caller passes 4D masks and position ids.

    One more column than the capacity is allocated: padding tokens are written there, and masks
    hide it.

    Args:
        slots: most sequences.
        max_columns: most tokens of a sequence.
        layers: layers of the model.
        device: where keys and values lie.
        whole: batched products read whole blocks where most columns are in use. They would copy a
            part of each block, which takes as long as the product. The cache then grows in small
            steps, and starts again with few columns when it is released.
    """

    def __init__(
        self,
        slots: int,
        max_columns: int,
        layers: int,
        device: torch.device,
        whole: bool = False,
    ) -> None:
        self.slots, self.max_columns, self.device = slots, max_columns, device
        self.whole = whole
        self.capacity = min(FIRST_COLUMNS, max_columns)
        empty = torch.empty(0, dtype=torch.long, device=device)
        self.window = _Window(slice(0, 0), 0, empty, empty)
        self.slot_layers = [_SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.slot_layers))

    @property
    def columns(self) -> int:
        """Allocated columns, including the one for padding."""
        return self.capacity + 1

    def read_columns(self, length: int) -> int:
        """The columns that a forward pass reads whose longest row has `length` tokens: all of them
        where blocks are read whole and two of three columns are in use.
        """
        return self.columns if self.whole and 3 * length >= 2 * self.columns else length

    def reserve(self, length: int) -> bool:
        """Grow the cache until a slot can hold `length` tokens: by doubling up to the maximum, or
        in steps of `BLOCK_COLUMNS`. Returns whether it grew.
        """
        if length <= self.capacity:
            return False
        if self.whole:
            steps = -(-length // BLOCK_COLUMNS)
            self.capacity = min(steps * BLOCK_COLUMNS, self.max_columns)
        while self.capacity < length:
            self.capacity = min(2 * self.capacity, self.max_columns)
        for layer in self.slot_layers:
            layer.grow(self.columns)
        return True

    def release(self) -> None:
        """Free all keys and values."""
        for layer in self.slot_layers:
            layer.release()
        if self.whole:  # what is read, to the last bit, does not depend on earlier sequences
            self.capacity = min(FIRST_COLUMNS, self.max_columns)

    def empty_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """The additive mask of a decoding step [slots, 1, 1, columns], with nothing cached. It is
        0 where a slot has a cached token.
        """
        shape, hidden = (self.slots, 1, 1, self.columns), torch.finfo(dtype).min
        return torch.full(shape, hidden, dtype=dtype, device=self.device)

    def select(
        self,
        slots: slice | torch.Tensor,
        columns: int,
        new_slots: torch.Tensor,
        new_columns: torch.Tensor,
    ) -> None:
        """Choose what the next forward pass reads, the first `columns` of `slots`, and where it
        writes its tokens.
        """
        self.window = _Window(slots, columns, new_slots, new_columns)

    def swap(self, a: int, b: int, columns: int) -> None:
        """Exchange the first columns of two slots in every layer."""
        for layer in self.slot_layers:
            layer.swap(a, b, columns)

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Copy the columns from `start` to `end` of one slot to another, in every layer."""
        for layer in self.slot_layers:
            layer.copy(source, target, slice(start, end))


def _widened(block: torch.Tensor, columns: int) -> torch.Tensor:
    more = block.new_zeros(*block.shape[:2], columns - block.shape[2], block.shape[3])
    return torch.cat((block, more), dim=2)
