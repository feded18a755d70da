"""Every reason why there is no demonstration is said in words."""

from __future__ import annotations

from typing import get_args

from tspo_cli.training.sft.left_out import left_out
from tspo_cli.training.sft.recorded_rollouts import Unused
from tspo_cli.training.sft.scripting.scripted_search import Dropped


def test_every_reason_is_said_in_words() -> None:
    for name in (*get_args(Unused), *get_args(Dropped)):
        assert left_out({name: 1200}).startswith("1,200 "), name


def test_what_is_to_be_done_follows() -> None:
    said = left_out({"other_protocol": 3, "no_supporting_ids": 1})
    assert "not in the tags of search_r1 (evaluate with --method search_r1), 1 without" in said
    assert said.endswith("(--distant looks for the answers instead)")
