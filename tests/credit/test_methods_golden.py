"""Credit methods of 2026 against vectors worked out by hand; the arithmetic stands beside them."""

from __future__ import annotations

from tests.credit.test_algorithms_golden import MIXED, TURNS, advantages, check


def test_stratified_grpo() -> None:
    """Searches 2 3 2 1 3. Of two searches: outcomes 1, 0, +-0.70711; of three: 0, 0; of one: 1
    alone. Half of that and half of GRPO's 1.09545 and -0.73030.
    """
    values = (0.90128, -0.36515, -0.71871, 0.54772, -0.36515)
    wanted = [[value] * turns for value, turns in zip(values, TURNS, strict=True)]
    check(advantages(MIXED, "stratified_grpo"), wanted)


def test_stratified_grpo_within_strata_alone() -> None:
    values = (0.5, 0.0, -0.5, 0.0, 0.0)
    wanted = [[value] * turns for value, turns in zip(values, TURNS, strict=True)]
    options = {"coef": 1.0, "strata": "turns"}
    check(advantages(MIXED, "stratified_grpo", scale="none", stratified_grpo=options), wanted)
