"""Laws of sampling: frequencies, filters, seeds and log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tspo_cli.errors import TspoError
from tspo_cli.rollout.engines.hf.sampling import filtered_tokens, finite, sample, uniforms


def draw(logits: torch.Tensor, count: int, seed: int = 0, **settings: float) -> np.ndarray:
    """`count` tokens for one row of logits."""
    tokens, _ = sample(
        logits.expand(count, -1),
        torch.from_numpy(uniforms(seed, count)),
        torch.full((count,), settings.get("temperature", 1.0)),
        torch.full((count,), int(settings["top_k"])) if "top_k" in settings else None,
        torch.full((count,), settings.get("top_p", 1.0)) if "top_k" in settings else None,
    )
    return tokens.numpy()


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0])
    counts = np.bincount(draw(logits, 20_000, temperature=0.7), minlength=6)
    expected = torch.softmax(logits.double() / 0.7, -1).numpy() * 20_000
    assert chisquare(counts, expected).pvalue > 0.01


def test_frequencies_after_the_filters_are_renormalised() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0])
    counts = np.bincount(draw(logits, 20_000, top_k=3), minlength=6)
    assert set(np.flatnonzero(counts)) == {1, 3, 4}
    expected = torch.softmax(logits[[1, 3, 4]].double(), -1).numpy() * 20_000
    assert chisquare(counts[[1, 3, 4]], expected).pvalue > 0.01


def test_zero_temperature_takes_the_most_probable_token_and_reports_temperature_one() -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = sample(logits, torch.rand(5, dtype=torch.float64), torch.zeros(5))
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1).max(-1).values)


def test_rows_with_other_settings_do_not_disturb_each_other() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    uniform = torch.from_numpy(uniforms(3, 3))
    alone, _ = sample(logits[:1], uniform[:1], torch.ones(1))
    together, _ = sample(
        logits,
        uniform,
        torch.tensor([1.0, 0.0, 0.5]),
        torch.tensor([0, 0, 5]),
        torch.tensor([1.0, 1.0, 0.3]),
    )
    assert together[0] == alone[0]
    assert together[1] == logits[1].argmax()


def test_logprobs_are_those_before_the_filters() -> None:
    logits = torch.randn(8, 40, generator=torch.Generator().manual_seed(4))
    tokens, logprobs = sample(
        logits,
        torch.from_numpy(uniforms(5, 8)),
        torch.full((8,), 0.5),
        torch.full((8,), 2),
        torch.full((8,), 0.9),
    )
    expected = torch.log_softmax(logits / 0.5, -1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected)


@pytest.mark.parametrize("far", [-80.0, -88.0, -95.0, -105.0, -1e4])
def test_tokens_that_are_all_but_impossible_change_no_other_draw(far: float) -> None:
    logits = torch.full((1, 600), far)
    logits[0, 500:540] = torch.randn(40, generator=torch.Generator().manual_seed(6))
    drawn = draw(logits, 500, seed=7)
    assert set(drawn) <= set(range(500, 540))
    assert (draw(logits[:, 500:540], 500, seed=7) + 500 == drawn).all()
    first, _ = sample(logits, torch.zeros(1, dtype=torch.float64), torch.ones(1))
    assert first[0] == (500 if far < -80 else 0)


def test_extreme_uniforms_stay_within_the_support() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]]).expand(2, -1)
    tokens, _ = sample(
        logits, torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64), torch.ones(2)
    )
    assert tokens.tolist() == [1, 2]


def test_uniforms_depend_on_the_seed_alone() -> None:
    assert np.array_equal(uniforms(7, 5), uniforms(7, 50)[:5])
    assert not np.array_equal(uniforms(7, 5), uniforms(8, 5))
    assert uniforms((1 << 63) - 1, 3).max() < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 12), st.floats(0.01, 1.0))
def test_filters_keep_the_smallest_set_that_is_asked_for(seed: int, k: int, p: float) -> None:
    logits = torch.randn(1, 10, generator=torch.Generator().manual_seed(seed))
    probabilities = torch.softmax(logits, -1)
    mask = filtered_tokens(probabilities, torch.tensor([k]), torch.tensor([p]))[0]
    chosen, rest = probabilities[0][mask], probabilities[0][~mask]
    assert 1 <= len(chosen) <= (k or 10)
    assert rest.numel() == 0 or chosen.min() >= rest.max()
    # Without its last member the set would not reach top_p (unless top_k cut it first).
    assert len(chosen) == 1 or float(chosen.sum() - chosen.min()) < p + 1e-6
    if len(chosen) < (k or 10):
        assert float(chosen.sum()) >= p - 1e-5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize(
    "logits",
    [
        [float("nan")] * 4,
        [0.0, 1.0, 2.0, float("nan")],
        [float("nan"), 1.0, 2.0, 3.0],
        [0.0, float("inf"), 0.0, 1.0],
        [float("inf")] * 4,
        [-float("inf")] * 4,
    ],
)
def test_a_row_without_probabilities_is_an_error(
    logits: list[float], temperature: float, filters: bool
) -> None:
    rows = torch.tensor([[0.0, 1.0, 2.0, 3.0], logits])
    top = (torch.tensor([2, 2]), torch.tensor([0.9, 0.9])) if filters else (None, None)
    tokens, logprobs = sample(
        rows, torch.full((2,), 0.999, dtype=torch.float64), torch.full((2,), temperature), *top
    )
    assert bool(((tokens >= 0) & (tokens < 4)).all())
    finite(logprobs[:1].numpy())
    with pytest.raises(TspoError, match="diverged or are damaged"):
        finite(logprobs.numpy())


def test_a_token_without_probability_is_no_error() -> None:
    rows = torch.tensor([[0.0, -float("inf"), 2.0, -float("inf")]])
    _, logprobs = sample(rows, torch.tensor([0.7], dtype=torch.float64), torch.ones(1))
    finite(logprobs.numpy())
