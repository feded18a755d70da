"""EM, F1 and sub-EM on a golden set, which a plain writing of the published rules is checked
against as well.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.evaluation.metrics import answer_em, answer_f1, cover_match

FIXTURES = Path(__file__).parents[1] / "fixtures"
PAIRS = [
    json.loads(line) for line in (FIXTURES / "golden_pairs.jsonl").read_text("utf-8").splitlines()
]


def normal(text: str) -> str:
    """SQuAD's steps, one after the other."""
    lower = text.lower()
    bare = "".join(char for char in lower if char not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def rule_f1(answer: str, gold: str) -> float:
    said, wanted = normal(answer), normal(gold)
    if said != wanted and ({said, wanted} & {"yes", "no", "noanswer"}):
        return 0.0
    shared = sum((Counter(said.split()) & Counter(wanted.split())).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(said.split()), shared / len(wanted.split())
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair["note"] for pair in PAIRS])
def test_golden_pairs(pair: dict[str, Any]) -> None:
    answer, golds = pair["answer"], pair["golds"]
    assert answer_em(answer, golds) == pair["em"]
    assert answer_f1(answer, golds) == pytest.approx(pair["f1"])
    assert cover_match(answer, golds) == pair["sub_em"]
    if answer is not None:
        assert any(normal(answer) == normal(gold) for gold in golds) == pair["em"]
        assert max((rule_f1(answer, gold) for gold in golds), default=0) == pytest.approx(
            pair["f1"]
        )


words = st.lists(
    st.sampled_from(["the", "a", "New", "york!", "é", "yes", "no", "1,000", "-", "x"]), max_size=5
)


@given(words.map(" ".join), st.lists(words.map(" ".join).filter(normal), min_size=1, max_size=3))
def test_laws(answer: str, golds: list[str]) -> None:
    em, f1 = answer_em(answer, golds), answer_f1(answer, golds)
    assert f1 == pytest.approx(max(rule_f1(answer, gold) for gold in golds))
    assert em == any(normal(answer) == normal(gold) for gold in golds)
    assert 0 <= f1 <= 1
    assert f1 == 1 if em else True
    assert cover_match(answer, golds) if em else True
    assert answer_f1(answer, [*golds, "zzz"]) >= f1, "a further accepted answer never costs"
