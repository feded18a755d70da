"""New weights for a model of this process, checked before the first of them is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tspo_cli.console import agreeing
from tspo_cli.errors import InvalidInputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def copy_weights(model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy `weights` into the model's parameters of the same names. Call it without gradients.

    Raises:
        InvalidInputError: an unknown name, another shape, or a parameter without new weights.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in weights.items():
        if name not in parameters:
            raise InvalidInputError(f"weights: the model has no parameter {name!r}")
        expected = tuple(parameters[name].shape)
        if expected != tuple(value.shape):
            raise InvalidInputError(
                f"weights: {name} has shape {tuple(value.shape)}, expected {expected}"
            )
    # Tied parameters are one tensor under two names; either name will do.
    covered = {parameters[name].data_ptr() for name in weights}
    missing = [
        name for name, parameter in parameters.items() if parameter.data_ptr() not in covered
    ]
    if missing:
        raise InvalidInputError(
            f"weights: {agreeing(len(missing), 'parameter is', 'parameters are')} missing, the "
            f"first is {missing[0]}"
        )
    for name, value in weights.items():
        parameters[name].copy_(value)
