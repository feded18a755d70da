"""Compiled parts compute what they computed before, for any number of tokens."""

from __future__ import annotations

import copy

import pytest
import torch

from tspo_cli.config.schema import ModelConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.compiled import compile_pointwise
from tspo_cli.models.tiny import tiny_model


@pytest.mark.slow
def test_values_and_gradients_stay() -> None:
    plain = tiny_model(50, ModelConfig(), 0)
    compiled = copy.deepcopy(plain)
    compile_pointwise(compiled)
    for length in (7, 12, 31):
        ids = torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(length))
        losses = [model(ids, labels=ids).loss for model in (plain, compiled)]
        torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
        for model, loss in zip((plain, compiled), losses, strict=True):
            model.zero_grad()
            loss.backward()
        for parameter, compiled_parameter in zip(
            plain.parameters(), compiled.parameters(), strict=True
        ):
            torch.testing.assert_close(
                parameter.grad, compiled_parameter.grad, atol=1e-5, rtol=1e-4
            )


def test_a_model_without_such_parts_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"train\.compile"):
        compile_pointwise(torch.nn.Linear(2, 2))
