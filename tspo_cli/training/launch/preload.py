"""The modules of every training run. The fork server of a sweep imports this file once."""

from __future__ import annotations

import importlib
import os

import torch

from tspo_cli.training.core.distributed import quiet_deepspeed

for name in ("tspo_cli.training.run", "transformers.models.qwen2.modeling_qwen2"):
    importlib.import_module(name)
# Only without CUDA: DeepSpeed would look for GPUs, after which a process cannot be forked.
if torch.version.cuda is None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    quiet_deepspeed()
