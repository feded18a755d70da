"""Runs and evaluations that the tests of reports read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reporting.tree import make_evaluation, make_tree


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"), steps=4)


@pytest.fixture(scope="module")
def evals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on two sets, a folder each."""
    root = tmp_path_factory.mktemp("evals")
    for method in ("rag", "ircot"):
        for dataset in ("nq", "popqa"):
            items = [
                {"id": f"{place}", "question": "?", "golden_answers": ["x"], "em": em, "f1": em}
                | {"trajectory": {"sample": 0, "answer": "x", "failed": False, "turns": []}}
                for place, em in enumerate([1.0, float(method == "ircot"), 0.0, 0.0])
            ]
            make_evaluation(root / method / dataset, method, items, dataset=dataset)
    return root
