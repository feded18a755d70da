"""Fewer passes over memory: the parts of a decoder that are bound by it, compiled by torch."""

from __future__ import annotations

from typing import Any

from tspo_cli.errors import InvalidInputError

_SUFFIXES = ("RMSNorm", "MLP")
"""Names of transformers' classes end so in every decoder of the Llama family."""


def compile_pointwise(model: Any) -> None:
    """Compile every normalisation and gated MLP of `model` in place, for any number of tokens.

    Matrix products stay what they are. Rounding may differ in the last digits, for fewer
    intermediate values are rounded. Compilation itself happens in the first passes and takes
    seconds (Inductor; a C++ compiler on CPUs, Triton on GPUs).

    Raises:
        InvalidInputError: the model has no such part.
    """
    found = [module for module in model.modules() if type(module).__name__.endswith(_SUFFIXES)]
    if not found:
        raise InvalidInputError(
            f"train.compile: {type(model).__name__} has no RMSNorm and no MLP; set it to false"
        )
    for module in found:
        module.compile(dynamic=True)
