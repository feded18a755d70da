"""What every training imports, for the fork server of a sweep to import once."""

from __future__ import annotations

import importlib
import os

import torch

from tspo_cli.training.core.distributed import quiet_deepspeed

for name in ("tspo_cli.training.run", "transformers.models.qwen2.modeling_qwen2"):
    importlib.import_module(name)
if (
    torch.version.cuda is None
):  # elsewhere DeepSpeed looks for GPUs, and a process that has cannot be forked
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    quiet_deepspeed()
