"""Low-rank adapters in vLLM: what it is started with, and the file form in which a server gets
them. Does not import vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.disk import writing
from tspo_cli.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

ADAPTER, ADAPTER_ID = "tspo", 1
"""Names the adapters of the policy, in requests and in vLLM's tables."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for."""
_MERGE = 'set lora.handover = "merged", which rounds them into the weights'


@dataclass(frozen=True)
class Adapters:
    """The adapters of a policy: their rank, their scale `alpha` / `rank`, and the last part of the
    names of the layers that have one. `frozen` returns the weights beside them by name; all
    training processes call it.
    """

    rank: int
    alpha: int
    layers: Sequence[str]
    frozen: Callable[[], Mapping[str, torch.Tensor]]

    @property
    def peft_config(self) -> dict[str, Any]:
        """What peft's adapter_config.json says of them, as far as vLLM reads it."""
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": list(self.layers),
            "bias": "none",
        }

    def write(self, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write `tensors`, named as in a peft file, as a directory that vLLM and peft load."""
        from safetensors.torch import save_file

        saved = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with writing(folder, sum(value.nbytes for value in saved.values())):
            (folder / "adapter_config.json").write_text(json.dumps(self.peft_config))
            save_file(saved, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def adapter_options(rank: int, layers: Sequence[str], tokens: int, *, cpu: bool) -> dict[str, Any]:
    """Arguments of a vLLM engine that computes with adapters of `rank` at `layers`.

    On a CPU vLLM copies an adapter for every token that it computes at once. Then it computes
    `tokens` at most: those of a context, and one for every sequence.

    Raises:
        InvalidInputError: vLLM has no room for that rank.
    """
    room = next((most for most in RANKS if most >= rank), None)
    if room is None:
        raise InvalidInputError(
            f"lora.rank: vLLM takes adapters up to rank {RANKS[-1]}, got {rank}; lower it, or "
            f"{_MERGE}"
        )
    options: dict[str, Any] = {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": room,
        "lora_target_modules": list(layers),
    }
    return options | ({"max_num_batched_tokens": tokens} if cpu else {})


def refused_adapters(reason: str) -> InvalidInputError:
    """The error that vLLM cannot compute with the adapters."""
    return InvalidInputError(f"lora: vLLM does not take these adapters: {reason}; {_MERGE}")
