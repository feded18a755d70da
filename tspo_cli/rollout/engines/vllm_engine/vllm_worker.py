"""Lets vLLM's workers take new weights. vLLM imports this module in its own process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch


class ReloadExtension:
    """A mixin of vLLM's worker class, which has `reload_weights` and `model_runner`. The option
    `worker_extension_cls` names it.
    """

    reload_weights: Any
    model_runner: Any

    def tspo_load_files(self, folder: str) -> None:
        """Load the weights from all safetensors files of `folder`."""
        from safetensors import safe_open

        def tensors() -> Iterable[tuple[str, torch.Tensor]]:
            for path in sorted(Path(folder).glob("*.safetensors")):
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118  (not a dict)
                        yield name, file.get_tensor(name)

        self._tspo_load(tensors())

    def tspo_load_tensors(self, weights: dict[str, torch.Tensor]) -> None:
        """Load the weights from memory. Learner and engine must share a process."""
        self._tspo_load(iter(weights.items()))

    def tspo_different_weight(self, weights: dict[str, torch.Tensor]) -> str | None:
        """The name of a parameter whose bits are not those of `weights`. vLLM fuses and packs
        projections; it keeps embeddings and norms as they are.
        """
        from tspo_cli.rollout.engines.read_back import different_weight

        return different_weight(dict(self.model_runner.get_model().named_parameters()), weights)

    def _tspo_load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        # vLLM packs weights when it loads them, so a plain copy into its parameters is not enough.
        self.reload_weights(weights_iterator=weights)
        model = self.model_runner.get_model()
        head = getattr(model, "lm_head", None)
        embedding = getattr(getattr(model, "model", None), "embed_tokens", None)
        if head is None or embedding is None or head is embedding:
            return
        if head.weight.data_ptr() == embedding.weight.data_ptr():
            # With tied embeddings, reloading does not update the packed copy of the head.
            head.quant_method.process_weights_after_loading(head)
