"""Generation with causal language models of transformers: continuous batching over a slot cache.

A session keeps its slot between turns. A turn therefore computes its own tokens and the feedback
before them, and not the whole history again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from tspo_cli.errors import InvalidInputError
from tspo_cli.freed_memory import keep_freed_memory
from tspo_cli.models.attention_kinds import attention_problem
from tspo_cli.models.checks.model_size import is_large_on_cpu
from tspo_cli.models.eos import eos_ids
from tspo_cli.rollout.engines.engine_protocol import Completion, FinishReason, GenerationRequest
from tspo_cli.rollout.engines.hf.copy_weights import copy_weights
from tspo_cli.rollout.engines.hf.fused import FusedForward, can_fuse
from tspo_cli.rollout.engines.hf.kv_cache import SlotCache
from tspo_cli.rollout.engines.hf.prefill_plan import copy_prefix, passes, same, share_prefixes
from tspo_cli.rollout.engines.hf.sampling import finite, sample, uniforms
from tspo_cli.rollout.engines.hf.slots import FREE, RUNNING, Rows, SlotTable
from tspo_cli.rollout.engines.hf.stop_conditions import (
    CONTINUE,
    EOS_TOKEN,
    MAY_STOP,
    STOP_STRING,
    StopRules,
)
from tspo_cli.rollout.engines.hf.windows import WindowMasks
from tspo_cli.rollout.engines.read_back import different_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Most columns, and most tokens, of one prefill pass; a large model reads all its weights in each.
PREFILL_COLUMNS, LARGE_PREFILL_COLUMNS = 256, 512
PREFILL_TOKENS = 16384
# A prefill starts when this share of the batch waits for one, or after this many steps: one pass
# over many rows is cheaper than several over few.
PREFILL_SHARE = 1 / 8
PREFILL_PATIENCE = 8
# Share of unused rows that a decoding step may compute before slots are moved together.
SPARE_ROWS = 1 / 4


class TransformersEngine:
    """The Engine protocol on a transformers model, with the model's device and data type.

    Args:
        model: a causal language model whose layers attend to all tokens or to a sliding window.
        tokenizer: decodes sampled tokens to find stop strings.
        batch_size: most sessions in the cache and most rows of a decoding step.
        max_context: most tokens of a session. The cache grows up to it by doubling.
        weight_version: version of the model's present weights.
        owns_weights: see `Engine`.
        stop_ids: tokens that end a request beside the model's EOS.

    Raises:
        InvalidInputError: the model has layers of another kind.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        batch_size: int,
        max_context: int,
        weight_version: int = 0,
        owns_weights: bool = False,
        stop_ids: Sequence[int] = (),
    ) -> None:
        problem = attention_problem(model)
        if problem is not None:
            raise InvalidInputError(
                f"{type(model).__name__} has {problem}, which the transformers engine cannot keep "
                'between turns; set rollout.engine to "vllm"'
            )
        self.weight_version, self.owns_weights = weight_version, owns_weights
        self.model, self.max_context, self._large = model, max_context, is_large_on_cpu(model)
        self.columns = LARGE_PREFILL_COLUMNS if self._large else PREFILL_COLUMNS
        if self._large:
            keep_freed_memory()
        self.device, self.dtype = model.device, model.dtype
        config = model.config.get_text_config()
        self._windows = WindowMasks.of(model, max_context)
        fuses = self._windows.window is None and can_fuse(model)
        whole = fuses and self._large and self.dtype == torch.bfloat16
        layers = config.num_hidden_layers
        self.cache = SlotCache(batch_size, max_context, layers, self.device, whole)
        self.table = SlotTable(batch_size, max_context)
        ends = {*eos_ids(model.config, model.generation_config, tokenizer), *stop_ids}
        self.rules = StopRules(tokenizer, config.vocab_size, sorted(ends))
        self.waiting: deque[GenerationRequest] = deque()
        self.known: set[int] = set()
        self.finished: list[Completion] = []
        self.prefill_wait = 0
        self._hidden = torch.finfo(self.dtype).min
        self._mask = self.cache.empty_mask(self.dtype)
        self._fused = FusedForward(model, self.cache, max_context) if fuses else None
        # transformers 5.24 renamed the argument.
        self._cache_name = (
            "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
        )

    def fresh(self) -> TransformersEngine:
        """An engine on the same model with an empty cache. Its completions depend on its requests
        alone, to the last bit, and not on earlier contents of the cache.
        """
        engine = TransformersEngine(
            self.model,
            self.rules.tokenizer,
            batch_size=self.table.slots,
            max_context=self.max_context,
            weight_version=self.weight_version,
            owns_weights=self.owns_weights,
        )
        engine.rules = self.rules
        return engine

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        A later turn for which the context has no room finishes with "length" and no tokens.

        Raises:
            InvalidInputError: an empty prompt, or a first prompt longer than `max_context`.
            ValueError: the session has a request in flight.
        """
        size, session = len(request.token_ids), request.session
        if size == 0:
            raise InvalidInputError(f"session {session}: expected at least one prompt token")
        if size > self.max_context and session not in self.known:
            raise InvalidInputError(
                f"session {session}: the prompt has {size} tokens, expected at most "
                f"{self.max_context}; shorten it or raise the engine's max_context"
            )
        slot = self.table.find(session)
        if any(waiting.session == session for waiting in self.waiting) or (
            slot is not None and self.table.state[slot] == RUNNING
        ):
            raise ValueError(f"session {session} has a request in flight")
        self.known.add(session)
        if size >= self.max_context:
            self.finished.append(Completion(session, (), (), "length", self.weight_version))
        else:
            self.waiting.append(request)

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Give free slots to waiting requests, run a prefill if one is due, then sample one token
        for each other running slot.
        """
        training = self.model.training
        if training:
            self.model.eval()
        self._admit()
        for due in self._due_for_prefill():
            self._prefill(due)
        rows = self.table.decoding()
        if rows.size:
            self._decode(rows)
        if training:
            self.model.train()
        finished, self.finished = self.finished, []
        return finished

    def release(self, session: int) -> None:
        """Forget the session and drop its request."""
        self.known.discard(session)
        self.waiting = deque(request for request in self.waiting if request.session != session)
        self.finished = [done for done in self.finished if done.session != session]
        slot = self.table.find(session)
        if slot is not None:
            self.table.state[slot] = FREE

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None:
        """Take new weights. Running requests continue with them after the tokens that they have.

        Raises:
            InvalidInputError: names or shapes are not those of the model.
        """
        if weights is not None:
            copy_weights(self.model, weights)
        self.weight_version = version
        if self._fused is not None:
            self._fused.refresh()
        self._forget()

    def different_weight(self, weights: Mapping[str, torch.Tensor]) -> str | None:
        """The name of a parameter whose bits are not those of `weights`."""
        return different_weight(dict(self.model.named_parameters()), weights)

    def sleep(self) -> None:
        """Free the cache, unless it is that of a small model on a CPU."""
        if self._large or self.device.type != "cpu":
            self.cache.release()
            self._forget()

    def close(self) -> None:
        """Drop all requests. The memory is freed with the engine."""
        self.waiting.clear()
        self.finished.clear()
        self.known.clear()
        self.table.state[:] = FREE

    def _admit(self) -> None:
        """Give slots to waiting requests, oldest first. A session that has a slot keeps it."""
        table, newcomers = self.table, deque[GenerationRequest]()
        for request in self.waiting:
            slot = table.find(request.session)
            if slot is None:
                newcomers.append(request)
            else:
                self._start(slot, request)
        while newcomers and (slot := table.vacant()) is not None:
            self._forget_from(slot, 0)
            self._start(slot, newcomers.popleft())
        self.waiting = newcomers

    def _start(self, slot: int, request: GenerationRequest) -> None:
        table, sampling, size = self.table, request.sampling, len(request.token_ids)
        ids = np.asarray(request.token_ids, np.int64)
        shared = min(int(table.cached[slot]), size - 1)
        self._forget_from(slot, same(table.ids[slot, :shared], ids[:shared]))
        table.ids[slot, :size] = ids
        table.state[slot], table.session[slot] = RUNNING, request.session
        table.prompt[slot] = table.total[slot] = size
        table.limit[slot] = limit = min(self.max_context, size + sampling.max_new_tokens)
        table.uniforms[slot, size:limit] = uniforms(request.seed, limit - size)
        table.rule[slot] = self.rules.rule(sampling)
        table.temperature[slot], table.top_k[slot], table.top_p[slot] = (
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
        )
        table.version[slot] = self.weight_version
        copy_prefix(table, self.cache, self._mask, request.prefix_of, slot)

    def _forget(self) -> None:
        """Count nothing as cached."""
        self.table.cached[:] = 0
        # The old mask may have been created in inference mode, and cannot be written to outside it.
        self._mask = self.cache.empty_mask(self.dtype)

    def _forget_from(self, slot: int, length: int) -> None:
        self.table.cached[slot] = length
        self._mask[slot, ..., length:] = self._hidden

    def _due_for_prefill(self) -> list[Rows]:
        """The rows of each prefill that is due."""
        rows = self.table.prefilling()
        decoding = self.table.decoding().size
        if rows.size < PREFILL_SHARE * decoding and self.prefill_wait < PREFILL_PATIENCE:
            self.prefill_wait += bool(rows.size)
            return []
        self.prefill_wait = 0
        if not self._large:
            return [rows] if rows.size else []
        return passes(self.table, share_prefixes(self.table, self.cache, self._mask, rows))

    def _prefill(self, rows: Rows) -> None:
        """Compute the next chunk of each row, padded on the left, and cache it. Rows whose tokens
        are all cached get a sampled token.
        """
        table = self.table
        missing = table.total[rows] - table.cached[rows]
        width = int(min(missing.max(), self.columns))
        rows = rows[: max(1, PREFILL_TOKENS // width)]
        start = table.cached[rows]
        count = np.minimum(table.total[rows] - start, width)
        end = start + count
        self._reserve(int(end.max()))
        position = end[:, None] + np.arange(-width, 0)
        padding = position < start[:, None]
        position[padding] = 0
        tokens = table.ids[rows[:, None], position]
        targets = np.where(padding, self.cache.capacity, position)
        columns = self.cache.read_columns(int(end.max()))
        positions = self._to_device(position)
        visible = torch.arange(columns, device=self.device) <= positions[:, :, None]
        mask = torch.where(visible, 0.0, self._hidden).to(self.dtype)[:, None]
        contiguous = rows[-1] - rows[0] + 1 == rows.size
        slots = slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else self._to_device(rows)
        self.cache.select(
            slots, columns, self._to_device(rows.repeat(width)), self._to_device(targets.ravel())
        )
        logits = self._forward(self._to_device(tokens), positions, mask)
        self._mask[self._to_device(rows), 0, 0, :columns] = mask[:, 0, -1]
        table.cached[rows] = end
        complete = end == table.total[rows]
        if complete.all():
            self._take_tokens(rows, logits)
        elif complete.any():
            self._take_tokens(rows[complete], logits[self._to_device(np.flatnonzero(complete))])

    def _decode(self, rows: Rows) -> None:
        """Sample one token for each row, in one pass over the slots from 0 to the last row."""
        rows = self._compact(rows)
        table, size = self.table, int(rows[-1]) + 1
        self._reserve(int(table.cached[:size].max()) + 1)
        columns = self.cache.read_columns(int(table.cached[rows].max()) + 1)
        # Slots between the rows are computed too. They write to the column after their last one,
        # which is never read.
        position = table.cached[:size]
        all_slots = np.arange(size)
        tokens = self._to_device(table.ids[all_slots, position][:, None])
        self._mask[self._to_device(rows), 0, 0, self._to_device(table.cached[rows])] = 0
        self.cache.select(
            slice(0, size), columns, self._to_device(all_slots), self._to_device(position)
        )
        positions = self._to_device(position[:, None])
        logits = self._forward(tokens, positions, self._mask[:size, ..., :columns])
        table.cached[rows] += 1
        self._take_tokens(rows, logits if rows.size == size else logits[self._to_device(rows)])

    def _compact(self, rows: Rows) -> Rows:
        """Swap running slots to the front if too many others lie between them."""
        count = rows.size
        if rows[-1] + 1 <= count * (1 + SPARE_ROWS) + 1:
            return rows
        unused = np.setdiff1d(np.arange(count), rows)
        for slot, row in zip(unused.tolist(), rows[rows >= count].tolist(), strict=True):
            self.cache.swap(slot, row, int(max(self.table.cached[[slot, row]])))
            self._mask[[slot, row]] = self._mask[[row, slot]]
            self.table.swap(slot, row)
        return np.arange(count)

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] of the last column."""
        if self._fused is not None:
            return self._fused(tokens, positions, mask)
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=self._windows(mask, positions),
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: self.cache},
        )
        return output.logits[:, -1]

    def _take_tokens(self, rows: Rows, logits: torch.Tensor) -> None:
        table = self.table
        position = table.total[rows]
        filters = bool((table.top_k[rows] > 0).any() or (table.top_p[rows] < 1).any())
        sampled, values = sample(
            logits,
            self._to_device(table.uniforms[rows, position]),
            self._to_device(table.temperature[rows]),
            self._to_device(table.top_k[rows]) if filters else None,
            self._to_device(table.top_p[rows]) if filters else None,
        )
        tokens = sampled.cpu().numpy()
        table.ids[rows, position] = tokens
        table.logprobs[rows, position] = finite(values.cpu().numpy())
        table.total[rows] = position + 1
        kinds = self.rules.kinds[table.rule[rows], tokens]
        full = position + 1 >= table.limit[rows]
        for index in np.flatnonzero((kinds != CONTINUE) | full).tolist():
            self._finish_if_done(int(rows[index]), int(kinds[index]), bool(full[index]))

    def _finish_if_done(self, slot: int, kind: int, full: bool) -> None:
        table = self.table
        start, end = int(table.prompt[slot]), int(table.total[slot])
        ids = table.ids[slot, start:end].tolist()
        reason: FinishReason
        if kind == EOS_TOKEN:
            reason = "eos"
        elif kind == STOP_STRING or (
            kind == MAY_STOP and self.rules.ends(int(table.rule[slot]), ids)
        ):
            reason = "stop"
        elif full:
            reason = "length"
        else:
            return
        table.set_idle(slot)
        session, version = int(table.session[slot]), int(table.version[slot])
        logprobs = tuple(table.logprobs[slot, start:end].tolist())
        self.finished.append(Completion(session, tuple(ids), logprobs, reason, version))

    def _reserve(self, length: int) -> None:
        if self.cache.reserve(length):
            old, self._mask = self._mask, self.cache.empty_mask(self.dtype)
            self._mask[..., : old.shape[-1]] = old

    def _to_device(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
