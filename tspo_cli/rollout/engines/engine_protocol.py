"""The protocol between the agent loop and the engine that generates tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "eos", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. Temperature 0 is greedy. `top_k` 0 and `top_p` 1 are no filter.

    Generation ends after one of the `stop` strings, which the output keeps, after an
    end-of-sequence token, or after `max_new_tokens`. The strings of `stop_outside` end it outside
    <think> blocks only; vLLM in this process, which cannot tell, goes on. `opened`: the prompt ends
    with <think>.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 500
    stop: tuple[str, ...] = ()
    stop_outside: tuple[str, ...] = ()
    opened: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Continue `token_ids`, the whole history of a session.

    An engine with a cache computes only the tokens that it has not seen. The sampled tokens depend
    on `seed`, and not on the other requests of the batch. `prefix_of`: another session that begins
    with the same tokens, which may still be in the cache.
    """

    session: int
    token_ids: tuple[int, ...]
    sampling: Sampling
    seed: int = 0
    prefix_of: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """The sampled ids of a request and their log-probabilities.

    `logprobs` are in nats, at the request's temperature (at 1 if it is greedy), before any top-k or
    top-p filter; empty if the engine knows none. `weight_version` is that of the last token;
    `mixed`: other weights sampled earlier tokens. `refused`: why a server refused the request; then
    there is no completion, and the trajectory cannot go on. Empty otherwise. `unanswered`: the same
    of a request that a server never answered, while it answers others. `thought`: reasoning that a
    server keeps apart from the text; it is in no later prompt. `served_as`: the model that a server
    says it answered as, where that is not the one that was asked for.
    """

    session: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    weight_version: int
    mixed: bool = False
    refused: str = ""
    thought: str = ""
    served_as: str = ""
    unanswered: str = ""


class Engine(Protocol):
    """Generates tokens. Requests advance independently: `submit` at any time, `step` returns what
    has finished since.
    """

    weight_version: int
    owns_weights: bool
    """True if the engine keeps a copy of the weights. False if it generates with the learner's
    parameters themselves.
    """

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. A session has at most one request in flight."""
        ...

    def step(self) -> list[Completion]:
        """Advance all running requests and return those that finished since the last step."""
        ...

    def release(self, session: int) -> None:
        """Forget the session, drop its request and free its cache."""
        ...

    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None:
        """Take new weights by parameter name and drop cached prefixes. `weights` is None if and
        only if the engine does not own its weights: the parameters have changed already. Where
        adapters are trained and the engine computes with them, it may get them alone.
        """
        ...

    def different_weight(self, weights: Mapping[str, torch.Tensor]) -> str | None:
        """The name of a parameter that the engine computes with and whose bits are not those of
        `weights`. None: there is none among those that can be read and compared.
        """
        ...

    def sleep(self) -> None:
        """Free memory that the engine does not need until the next `submit` or `load_weights`,
        which wakes it.
        """
        ...

    def close(self) -> None:
        """Drop all requests and free the engine's resources. It takes no request afterwards."""
        ...


@runtime_checkable
class TakesOneByOne(Protocol):
    """An engine that may take weights one at a time, so that no process holds all of them."""

    takes_one_by_one: bool
    """Whether it does; else it wants `load_weights`."""

    def load_one_by_one(
        self, weights: Callable[[], Iterator[tuple[str, torch.Tensor]]], version: int
    ) -> None:
        """Take new weights and drop cached prefixes. Every call of `weights` goes through all
        parameters by name, in the same order. All training processes call it.
        """
        ...


@runtime_checkable
class ReportsLoad(Protocol):
    """An engine that tells how full its KV cache was."""

    def take_load(self) -> dict[str, float]:
        """Since the last call: `kv_cache_peak`, the largest share in use (0 to 1), and
        `preemptions`, the requests that were pushed out and computed again. Empty: not known.
        """
        ...
