"""CPU time of a linear layer of a small bfloat16 model, as PyTorch multiplies it and in float32.

    python experiments/benchmarks/bfloat16_products.py [--rows 8 480] [--json]

The layer has the shape of SmolLM2-135M's MLP (576 inputs, 1536 outputs). Sides: PyTorch's own
bfloat16, tspo's product (`multiply_in_float32`), and float32 weights. Each time is the best of
five on one thread, with and without the backward pass. On a CPU with instructions for bfloat16
tspo does not use its own product.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from experiments.benchmarks.common import machine
from tspo_cli.models.dtype import has_bfloat16, multiply_in_float32

INPUTS, OUTPUTS, ROUNDS = 576, 1536, 5


def milliseconds(call: Callable[[], object]) -> float:
    """CPU time of a call, the best of some."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return round(best * 1e3, 2)


def sides() -> dict[str, nn.Module]:
    """The same layer three times."""
    own = nn.Linear(INPUTS, OUTPUTS, bias=False, dtype=torch.bfloat16)
    ours = copy.deepcopy(own)
    multiply_in_float32(nn.ModuleList([ours]))
    return {"bfloat16": own, "multiplied in float32": ours, "float32": copy.deepcopy(own).float()}


def forward_and_backward(layer: nn.Module, x: torch.Tensor) -> None:
    """What training does with a layer."""
    layer(x).sum().backward()


def main() -> None:
    """Parse the command line and print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64, 480, 1900])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = []
    for rows in options.rows:
        for name, layer in sides().items():
            dtype = next(layer.parameters()).dtype
            x = torch.randn(rows, INPUTS, dtype=dtype, requires_grad=True)
            with torch.no_grad():
                forward = milliseconds(partial(layer, x))
            both = milliseconds(partial(forward_and_backward, layer, x))
            measured.append(
                {"rows": rows, "side": name, "forward_ms": forward, "and_backward_ms": both}
            )
            if not options.json:
                print(f"{rows:6} rows  {name:22} {forward:9} ms  with backward {both:9} ms")
    facts = {"machine": machine(), "has_bfloat16": has_bfloat16()}
    print(json.dumps(facts | {"rows": measured}) if options.json else facts)


if __name__ == "__main__":
    main()
