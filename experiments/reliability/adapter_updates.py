"""How much of a small LoRA update does vLLM compute with, in bfloat16?

    .venv-vllm/bin/python -m experiments.reliability.adapter_updates --model DIR --index DIR
        --questions FILE [--steps 10] [--lr 2e-5] [--seed 0] [--work DIR] [--json]

Needs vLLM (`make vllm`); on a CPU 135 M parameters take some minutes. GRPO trains adapters for
`--steps` updates. After the last one vLLM gets the adapters once more, for an evaluation of one
question. Then its own matrices are read back and compared with those of the optimiser, RUN/adapter
in float32, and beside that the update that would be left if it were added to the bfloat16 weights.
A loss is |applied - true| / |true|, of the norms over all layers. Exit code 1 where vLLM's is above
5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.common import machine
from experiments.reliability.bf16_runs import (
    SETTINGS,
    folder_for,
    options_of_trainings,
    with_absolute_paths,
)
from tspo_cli.console import counted

if TYPE_CHECKING:
    import torch

MOST_LOST = 0.05
HELD = "TSPO_HELD_ADAPTERS"
"""Variable with the file that a training writes vLLM's matrices to."""


def child(arguments: list[str]) -> None:
    """tspo in this process. vLLM's adapters are saved when its engine is closed."""
    from safetensors.torch import save_file

    from tspo_cli.commands.app import main as tspo
    from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine

    close = VllmEngine.close

    def save_and_close(self: VllmEngine) -> None:
        (held,) = self.engine.collective_rpc("tspo_adapters")
        tensors = {
            f"{layer}.{part}": value.detach().cpu().clone()
            for layer, pair in held.items()
            for part, value in zip("AB", pair, strict=True)
        }
        save_file(tensors, os.environ[HELD])
        close(self)

    VllmEngine.close = save_and_close  # type: ignore[method-assign]
    sys.argv = ["tspo", *arguments]
    tspo()


def train(options: argparse.Namespace, out: Path, held: Path) -> None:
    """Train adapters; ends this program where that fails."""
    settings = {
        **SETTINGS,
        "train.export_model": "true",
        "model.path": options.model,
        "retriever.index": options.index,
        "data.train": json.dumps([options.questions]),
        "eval.data": json.dumps([options.questions]),
        "eval.limit": 1,
        "eval.every": options.steps,
        "lora.rank": options.rank,
        "optimizer.lr": options.lr,
        "train.steps": options.steps,
        "seed": options.seed,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    program = [sys.executable, "-m", "experiments.reliability.adapter_updates", "--child"]
    done = subprocess.run(
        [*program, "train", "any/grpo", "--out", str(out), "--overwrite", *words],
        env={**os.environ, HELD: str(held)},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)


def losses(model: Path, adapter: Path, held: Path) -> dict[str, Any]:
    """What is lost of the update of RUN/adapter: in vLLM's matrices, and merged into bfloat16."""
    import torch
    from safetensors.torch import load_file

    config = json.loads((adapter / "adapter_config.json").read_text())
    trained, applied = load_file(adapter / "adapter_model.safetensors"), load_file(held)
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(model.glob("*.safetensors")):
        weights |= load_file(file)
    scale, squares = (
        config["lora_alpha"] / config["r"],
        dict.fromkeys(("true", "vllm", "merged"), 0.0),
    )
    for name, first in trained.items():
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        second = trained[name.replace(".lora_A.", ".lora_B.")]
        assert first.dtype == second.dtype == torch.float32
        update = scale * second @ first
        rank = len(first)
        vllm = applied[f"{layer}.B"][:, :rank].float() @ applied[f"{layer}.A"][:rank].float()
        weight = weights[f"{layer}.weight"].bfloat16().float()
        merged = (weight + update).bfloat16().float() - weight
        for kind, other in (("true", 0.0), ("vllm", vllm), ("merged", merged)):
            squares[kind] += float((update - other).square().sum())
    if not squares["true"]:
        sys.exit("the training changed no adapter: give questions that it can learn from")
    return {
        "update_norm": squares["true"] ** 0.5,
        "lost_in_vllm": (squares["vllm"] / squares["true"]) ** 0.5,
        "lost_merged": (squares["merged"] / squares["true"]) ** 0.5,
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = options_of_trainings(__doc__ or "")
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = with_absolute_paths(parser.parse_args())
    with folder_for(options.work) as folder:
        run, held = Path(folder) / "run", Path(folder) / "vllm.safetensors"
        train(options, run, held)
        result = losses(Path(options.model), run / "adapter", held)
    if options.json:
        print(
            json.dumps({"machine": machine(), "steps": options.steps, "lr": options.lr, **result})
        )
    else:
        print(
            f"{counted(options.steps, 'update')} at {options.lr:g}, norm "
            f"{result['update_norm']:.3g}: vLLM loses {result['lost_in_vllm']:.2%}, merged weights "
            f"{result['lost_merged']:.2%}"
        )
        print(machine())
    sys.exit(0 if result["lost_in_vllm"] <= MOST_LOST else 1)


if __name__ == "__main__":
    main()
