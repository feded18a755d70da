from __future__ import annotations

import pytest
import torch

from tspo_cli.models.logprobs import ROWS_AT_ONCE, hidden_logprobs, sampled_logprobs, token_entropy


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


@pytest.mark.parametrize("rows", [0, 3, ROWS_AT_ONCE + 5])
def test_from_hidden_states_with_gradients(rows: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, 6, generator=generator, requires_grad=True)
    head = torch.randn(9, 6, generator=generator, requires_grad=True)
    ids = torch.arange(rows) % 9
    plain = sampled_logprobs(hidden @ head.T, ids, 0.7)
    pieces = hidden_logprobs(hidden, head, ids, 0.7)
    torch.testing.assert_close(pieces, plain)
    if rows:
        wanted = torch.autograd.grad(plain.sum(), (hidden, head))
        torch.testing.assert_close(torch.autograd.grad(pieces.sum(), (hidden, head)), wanted)
    with torch.no_grad():
        torch.testing.assert_close(hidden_logprobs(hidden, head, ids, 0.7), plain.detach())


def test_entropy() -> None:
    entropy = token_entropy(torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(entropy, torch.tensor([1.3862944, 0.0]))
