"""vLLM's own engine for weight transfers, with gloo in place of NCCL: for the CPU build, whose
workers have no GPU. `tspo engine MODEL -- --worker-extension-cls` names `GlooExtension`.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from tests.rollout.engines.vllm_engine.gloo_group import VERSION, from_first, member
from tspo_cli.rollout.engines.vllm_engine.vllm_worker import ReloadExtension


class GlooTransferEngine(NCCLWeightTransferEngine):
    """All of vLLM's but the group: start and finish, and how a tensor gets into the model."""

    def init_transfer_engine(self, init_info: Any) -> None:
        rank = self.parallel_config.rank + init_info.rank_offset
        self.model_update_group = member(init_info.nccl_unique_id_bytes, rank, init_info.world_size)

    def receive_weights(self, update_info: Any) -> None:
        described = (update_info.names, update_info.dtype_names, update_info.shapes)
        for name, dtype, shape in zip(*described, strict=True):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            from_first(self.model_update_group, weight).wait()
            self.model.load_weights([(name, weight)])

    def shutdown(self) -> None:
        self.model_update_group = None


WeightTransferEngineFactory._registry["nccl"] = lambda: GlooTransferEngine


class GlooExtension(ReloadExtension):
    """Says that it can."""

    def tspo_transfer(self) -> dict[str, Any]:
        return super().tspo_transfer() | {"nccl": VERSION, "gpu": "the server's"}
