"""Compilation of the memory-bound parts of a decoder: normalisations and gated MLPs."""

from __future__ import annotations

from typing import Any

from tspo_cli.errors import InvalidInputError

_SUFFIXES = ("RMSNorm", "MLP")
"""Endings of the class names in transformers, for all decoders of the Llama family."""


def compile_pointwise(model: Any) -> None:
    """Compile every normalisation and gated MLP of `model` in place, for any number of tokens.

    Matrix products do not change. Results may differ in the last digits, because fewer intermediate
    values are rounded. Compilation happens in the first passes and takes seconds (Inductor, with a
    C++ compiler on CPUs and Triton on GPUs).

    Raises:
        InvalidInputError: the model has no such part.
    """
    parts = [module for module in model.modules() if type(module).__name__.endswith(_SUFFIXES)]
    if not parts:
        raise InvalidInputError(
            f"train.compile: {type(model).__name__} has no RMSNorm and no MLP; set it to false"
        )
    for module in parts:
        module.compile(dynamic=True)
