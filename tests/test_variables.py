"""Numbers in environment variables, as an outer job may leave them."""

from __future__ import annotations

import pytest

from tspo_cli.errors import UsageError
from tspo_cli.variables import default_threads, number_in


@pytest.mark.parametrize(
    ("value", "threads"), [(None, 1), ("", 1), ("  ", 1), ("4", 4), (" 4 ", 4), ("4,2", 4)]
)
def test_threads_are_those_of_openmp(
    value: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK` leaves it empty where that is not set, and
    OpenMP takes a number for each level.
    """
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == threads


@pytest.mark.parametrize("value", ["0", "-1", "all", "1.5", "4;2", "²", 5000 * "9"])
def test_no_number_of_threads(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(UsageError, match="OMP_NUM_THREADS: expected a number of threads, got "):
        default_threads()


def test_numbers_of_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert number_in("WORLD_SIZE", 1) == 1
    monkeypatch.setenv("WORLD_SIZE", "")
    assert number_in("WORLD_SIZE", 1) == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert number_in("WORLD_SIZE", 1) == 8
    for wrong in ("two", "-2", "1e3", "²", 5000 * "9"):
        monkeypatch.setenv("WORLD_SIZE", wrong)
        with pytest.raises(UsageError, match="WORLD_SIZE: expected a whole number, got "):
            number_in("WORLD_SIZE", 1)
