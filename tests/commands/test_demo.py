"""`tspo demo` from an empty directory, in its quick form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import run_tspo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The packaged recipes are found although there is no experiments/ here."""
    folder = tmp_path_factory.mktemp("empty")
    done = run_tspo("demo", "--quick", "--json", cwd=folder)
    assert done.code == 0, done.err[-2000:]
    return folder, json.loads(done.out)


def test_the_demo_ends_with_a_table_and_a_page(demo: tuple[Path, dict[str, object]]) -> None:
    folder, summary = demo
    rows = summary["rows"]
    assert isinstance(rows, list)
    seen = {(row["run"], row["algorithm"], row["step"]) for row in rows}
    assert seen == {
        ("warmstart", "sft", 40),
        ("grpo", "grpo", 0),
        ("grpo", "grpo", 4),
        ("tspo", "tspo", 0),
        ("tspo", "tspo", 4),
    }
    start = {row["em"] for row in rows if row["step"] in (0, 40)}
    assert len(start) == 1, "both arms begin with the policy that the warm start ended with"
    assert [scores["method"] for scores in summary["baselines"]] == ["direct", "rag"]  # type: ignore[attr-defined]
    page = (folder / "runs/demo/report.html").read_text()
    assert "one seed" in page.lower()
    assert (
        json.loads(run_tspo("report", "runs/demo", "--format", "json", cwd=folder).out)["rows"]
        == rows
    )


def test_a_second_demo_keeps_what_is_done(demo: tuple[Path, dict[str, object]]) -> None:
    folder, _ = demo
    model = folder / "runs/demo/tspo/model/model.safetensors"
    before = model.stat().st_mtime_ns
    again = run_tspo("demo", "--quick", cwd=folder)
    assert again.code == 0, again.err[-2000:]
    assert again.err.count("(done before)") == 7
    assert model.stat().st_mtime_ns == before
    for text in (
        "warmstart",
        "grpo",
        "tspo",
        "page   runs/demo/report.html",
        "One seed proves nothing",
    ):
        assert text in again.out


def test_other_settings_do_not_mix(demo: tuple[Path, dict[str, object]]) -> None:
    done = run_tspo("demo", "--quick", "--seed", 1, cwd=demo[0])
    assert done.code == 2
    assert "--overwrite" in done.err


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    done = run_tspo("demo", "--quick", "--overwrite", "--out", "mine", cwd=tmp_path)
    assert done.code == 3
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
