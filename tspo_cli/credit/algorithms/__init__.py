"""Credit algorithms by name. A new one is a function in its own file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms.grpo import grpo
from tspo_cli.credit.algorithms.tspo import tspo
from tspo_cli.credit.group import Credit, Judged

Algorithm = Callable[[Sequence[Judged], CreditConfig], Credit]

ALGORITHMS: Mapping[str, Algorithm] = {
    "tspo": tspo,
    "grpo": grpo,
}
