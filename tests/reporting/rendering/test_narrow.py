"""Tables on terminals that are too narrow for them."""

from __future__ import annotations

import pytest

from tspo_cli.reporting.rendering.render import render
from tspo_cli.reporting.rendering.table import Column, Format, Table, cells


@pytest.mark.parametrize("width", [1, 20, 40])
def test_no_figure_is_lost(width: int) -> None:
    columns = tuple(Column(f"h{number}") for number in range(10, 23))
    table = Table("main", "Main", columns, (cells(["0.5"] * 13),), [{}], notes=("a note",))
    text = render([table], Format.table, width=width)
    assert text.count("0.5") == 13
    for column in columns:
        assert column.heading in text
