from __future__ import annotations

import pytest
import torch

from tspo_cli.models import logprobs
from tspo_cli.models.logprobs import sampled_logprobs, token_entropy


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_same_as_log_softmax_in_float32(temperature: float) -> None:
    logits = torch.randn(2, 7, 11, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    ids = torch.arange(14).reshape(2, 7) % 11
    expected = (logits.float() / temperature).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    result = sampled_logprobs(logits, ids, temperature)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_greedy_counts_as_temperature_one() -> None:
    logits, ids = torch.randn(3, 5), torch.tensor([0, 1, 2])
    assert torch.equal(sampled_logprobs(logits, ids, 0.0), sampled_logprobs(logits, ids, 1.0))


@pytest.mark.parametrize("entropy", ["none", "logged", "trained"])
@pytest.mark.parametrize("rows", [0, 3, 25])
def test_portions_change_nothing(rows: int, entropy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values and gradients whether all logits are kept or made a few rows at a time."""
    torch.manual_seed(1)
    hidden, head, ids = (
        torch.randn(rows, 6, requires_grad=True),
        torch.nn.Linear(6, 9),
        torch.arange(rows) % 9,
    )
    found = []
    for kept in (10**9, 0):
        monkeypatch.setattr(logprobs, "KEPT_LOGITS", kept)
        monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", {"cpu": 4 * 9})
        scores = logprobs.head_scores(hidden, head, head.out_features, ids, 0.7, entropy)
        gradients = (
            torch.autograd.grad((scores[0] + scores[1]).sum(), [hidden, *head.parameters()])
            if rows
            else ()
        )
        found.append([*scores, *gradients])
        with torch.no_grad():
            found[-1] += logprobs.head_scores(hidden, head, head.out_features, ids, 0.7, entropy)
    for whole, portions in zip(*found, strict=True):
        torch.testing.assert_close(portions, whole, atol=1e-6, rtol=1e-6)


def test_entropy() -> None:
    entropy = token_entropy(torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(entropy, torch.tensor([1.3862944, 0.0]))
