"""Sequences spread over processes: laws of the assignment, and the same training with fewer
passes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.core.test_learner import run_job
from tspo_cli.training.core.balancing import assign

LENGTHS = st.lists(st.lists(st.integers(1, 3000), max_size=30), min_size=1, max_size=8)


@given(LENGTHS)
def test_everything_is_assigned_once_and_evenly(lengths: list[list[int]]) -> None:
    chosen = assign(lengths)
    assert [len(own) for own in chosen] == [len(own) for own in lengths]
    load = [0] * len(lengths)
    for targets, own in zip(chosen, lengths, strict=True):
        for target, tokens in zip(targets, own, strict=True):
            load[target] += tokens
    assert sum(load) == sum(map(sum, lengths))
    longest = max((tokens for own in lengths for tokens in own), default=0)
    assert max(load) - min(load) <= longest


@given(LENGTHS)
def test_equal_lengths_make_equal_numbers(lengths: list[list[int]]) -> None:
    chosen = assign([[7] * len(own) for own in lengths])
    counts = [sum(targets.count(process) for targets in chosen) for process in range(len(lengths))]
    assert max(counts) - min(counts) <= 1


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("uneven")
    return {processes: run_job("uneven", folder, processes) for processes in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("balanced", ["true", "false"])
def test_where_a_sequence_is_worked_on_changes_nothing(
    uneven: dict[int, dict[str, Any]], balanced: str, stage: int
) -> None:
    got, wanted = (uneven[processes][f"{balanced} {stage}"] for processes in (2, 1))
    for row, expected in zip(got["rows"], wanted["rows"], strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    for (length, total), (expected_length, expected_total) in zip(
        got["logprobs"], wanted["logprobs"], strict=True
    ):
        assert length == expected_length
        assert total == pytest.approx(expected_total, abs=1e-4)


@pytest.mark.slow
def test_no_process_waits_for_the_one_with_the_long_sequences(
    uneven: dict[int, dict[str, Any]],
) -> None:
    spread, kept = (uneven[2][f"{balanced} 0"]["passes"] for balanced in ("true", "false"))
    assert spread <= 0.75 * kept
