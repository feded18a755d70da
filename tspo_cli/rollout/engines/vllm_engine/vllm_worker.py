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
    lora_config: Any
    vllm_config: Any

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

    def tspo_adapter_rank(self) -> int:
        """The largest rank of adapters that this engine takes, 0 if it takes none."""
        return self.lora_config.max_lora_rank if self.lora_config else 0

    def tspo_head_type(self) -> str:
        """The data type of the logits, such as "float32"."""
        return str(self.model_runner.model_config.head_dtype).removeprefix("torch.")

    def tspo_transfer(self) -> dict[str, Any]:
        """What decides whether weights can come over NCCL: vLLM's `backend` for transfers, the
        version of `nccl` and the `gpu` of this worker.
        """
        from tspo_cli.rollout.engines.vllm_engine.nccl import gpu_name, library_version

        transfer = self.vllm_config.weight_transfer_config
        cuda = torch.cuda.is_available()
        gpu = gpu_name(torch.device("cuda", torch.cuda.current_device())) if cuda else ""
        backend = transfer.backend if transfer else ""
        return {"backend": backend, "nccl": library_version() if cuda else 0, "gpu": gpu}

    def tspo_load_adapters(self, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Compute with these adapters from now on. `config` is peft's, `tensors` are named as in
        its file. Learner and engine must share a process.

        Raises:
            ValueError: vLLM does not take them.
        """
        from vllm.lora.lora_model import LoRAModel
        from vllm.lora.peft_helper import PEFTHelper

        from tspo_cli.rollout.engines.vllm_engine.adapters import ADAPTER_ID

        helper = PEFTHelper.from_dict(config)
        helper.validate_legal(self.lora_config)
        manager = self.model_runner.lora_manager._adapter_manager
        adapters = LoRAModel.from_lora_tensors(
            ADAPTER_ID,
            {name: value.clone() for name, value in tensors.items()},  # vLLM scales them in place
            helper,
            device=str(next(iter(tensors.values())).device),
            dtype=self.lora_config.lora_dtype,
            weights_mapper=self._tspo_renames(),
        )
        manager.remove_adapter(ADAPTER_ID)
        manager.add_adapter(adapters)
        manager.activate_adapter(ADAPTER_ID)

    def tspo_different_adapter(
        self, config: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> str | None:
        """The name of one of `tensors` that the engine does not compute with, bit by bit. Layers
        that are divided over several GPUs are left out.
        """
        from vllm.lora.utils import parse_fine_tuned_lora_name

        held = self.tspo_adapters()
        scale = config["lora_alpha"] / config["r"]
        for name, value in tensors.items():
            layer, is_a = parse_fine_tuned_lora_name(name, self._tspo_renames())
            if layer not in held:
                return name
            place = held[layer][0 if is_a else 1]
            wanted = value.to(place.device, place.dtype)
            if not is_a and scale != 1:
                wanted = wanted * scale
            rows, columns = wanted.shape
            whole = place.shape[1 if is_a else 0] == wanted.shape[1 if is_a else 0]
            if whole and not torch.equal(place[:rows, :columns], wanted):
                return name
        return None

    def tspo_different_adapter_file(self, folder: str) -> str | None:
        """The same for the adapters in `folder`, as peft saves them."""
        import json

        from safetensors.torch import load_file

        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
        return self.tspo_different_adapter(config, tensors)

    def tspo_adapters(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """A [rank, inputs] and B [outputs, rank], scaled, that each layer computes with. vLLM
        joins layers of one input, and keeps the adapters of each.
        """
        from tspo_cli.rollout.engines.vllm_engine.adapters import ADAPTER_ID

        manager = self.model_runner.lora_manager._adapter_manager
        if ADAPTER_ID not in manager.lora_index_to_id:
            return {}
        slot = manager.lora_index_to_id.index(ADAPTER_ID)
        held = {}
        for name, module in manager.modules.items():
            parts = manager.packed_modules.get(name, [name])
            pairs = zip(module.lora_a_stacked, module.lora_b_stacked, strict=True)
            for part, (first, second) in zip(parts, pairs, strict=False):
                held[part] = (first[slot, 0], second[slot, 0])
        return held

    def _tspo_renames(self) -> Any:
        """How vLLM renames a checkpoint's layers, None where it does not."""
        mapper = getattr(self.model_runner.get_model(), "hf_to_vllm_mapper", None)
        return mapper and mapper.get_rename_mapper()

    def _tspo_load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        # vLLM packs weights when it loads them, so a plain copy into its parameters is not enough.
        self.reload_weights(weights_iterator=weights)
        self.tspo_pack_tied_head()

    def tspo_pack_tied_head(self) -> None:
        """With tied embeddings, reloading does not update a packed copy of the head: pack it
        again.
        """
        model = self.model_runner.get_model()
        head = getattr(model, "lm_head", None)
        embedding = getattr(getattr(model, "model", None), "embed_tokens", None)
        # Adapters wrap the layers that they may change.
        head, embedding = (getattr(layer, "base_layer", layer) for layer in (head, embedding))
        if head is None or embedding is None or head is embedding:
            return
        if head.weight.data_ptr() == embedding.weight.data_ptr():
            head.quant_method.process_weights_after_loading(head)
