"""The page: self-contained, safe with hostile text, the same for the same runs, and alive in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.tree import HOSTILE, make_run, make_tree
from tspo_cli import runs
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.reporting.page import GROUPS_PER_STEP, ITEMS_PER_EVALUATION, render_page, viewer_data
from tspo_cli.reporting.rows import result_rows
from tspo_cli.reporting.tables import records
from tspo_cli.reporting.views import open_runs

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def page_of(root: Path) -> str:
    views = open_runs([root])
    return render_page(views, records(result_rows(views)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"), hostile=True, steps=5)


class Elements(HTMLParser):
    """Counts elements and collects the data of the JSON script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.json = ""
        self._in_json = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._in_json = ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_json:
            self.json += data

    def handle_endtag(self, tag: str) -> None:
        self._in_json = False


def test_the_page_loads_nothing(hostile: Path) -> None:
    page = page_of(hostile)
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?\s*(?!#)[\w/]""", page.split('id="data"')[0])
    assert not re.search(r"https?://|//\w|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", page)
    assert not {"link", "img", "iframe", "object", "base"} & set(Elements(page).tags)


def test_hostile_text_stays_text(hostile: Path) -> None:
    page = page_of(hostile)
    elements = Elements(page)
    assert elements.tags.count("script") == 2
    assert not any(name.startswith("on") for name, _ in elements.attributes)
    data = json.loads(elements.json)
    assert HOSTILE in data["runs"][0]["sources"][0]["groups"][0]["question"]
    assert "<" not in elements.json


def test_hostile_names_and_settings_are_escaped(tmp_path: Path) -> None:
    config = Config.model_validate({"credit": {"algorithm": "<img src=x onerror=alert(1)>"}})
    make_run(tmp_path / "<b>run & </title><script>", config, 2, {0: 0.1, 2: 0.2})
    elements = Elements(page_of(tmp_path))
    assert elements.tags.count("script") == 2
    assert "img" not in elements.tags
    assert "b" not in elements.tags


def test_equal_runs_give_equal_pages(hostile: Path) -> None:
    assert page_of(hostile) == page_of(hostile)


def test_what_the_page_says(hostile: Path) -> None:
    page = page_of(hostile)
    assert "One seed proves nothing" in page
    assert "tspo-b: running at step 2 of 5" in page
    for figure in ("Exact match on test", "Training reward", "Composition of groups: grpo", "Searches per training"):
        assert figure in page
    assert "credit.success_turns" in page
    assert "0.0002" in page


def test_the_viewer_holds_a_fixed_part_of_every_run(hostile: Path) -> None:
    data = viewer_data(open_runs([hostile]))
    tspo = next(run for run in data["runs"] if run["name"] == "tspo")
    assert [source["label"] for source in tspo["sources"]] == [
        "rollouts of step 1",
        "rollouts of step 3",
        "rollouts of step 5",
        "test at step 0",
        "test at step 5",
    ]
    assert [(len(source["groups"]), source["of"]) for source in tspo["sources"]] == [
        *[(GROUPS_PER_STEP, 10)] * 3,
        *[(ITEMS_PER_EVALUATION, 40)] * 2,
    ]


def test_evaluated_items_are_judged_like_rollouts(hostile: Path) -> None:
    data = viewer_data(open_runs([hostile / "tspo"]))
    one: dict[str, Any] = data["runs"][0]["sources"][-1]["groups"][0]["trajectories"][0]
    assert (one["class"], one["first"], one["outcome"]) == ("success", 1, 1.0)
    passage = data["passages"][one["turns"][0]["passages"][0][1]]
    assert passage[1] == "Silver Brook"


def test_runs_without_steps_or_evaluations_make_a_page(tmp_path: Path) -> None:
    run = tmp_path / "new"
    run.mkdir()
    runs.write_json(run / runs.CONFIG_NAME, Config().section_dict())
    page = page_of(tmp_path)
    assert "No evaluation yet." in page
    assert "No training steps yet." in page


def test_values_that_are_no_numbers_do_not_break_curves(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    runs.append_jsonl(demo / "grpo" / "metrics.jsonl", {"step": 5, "reward": float("nan"), "entropy": None})
    assert "nan" not in "".join(re.findall(r"points=\"[^\"]*\"", page_of(demo)))


def test_a_damaged_rollout_file_is_named(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    (demo / "grpo" / "rollouts" / "step_000001.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(InvalidInputError, match=r"step_000001.jsonl.gz: damaged"):
        page_of(demo)


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on this machine")
def test_the_viewer_renders_in_a_browser(hostile: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page_of(hostile), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --disable-dev-shm-usage --virtual-time-budget=3000"
    done = subprocess.run(
        [str(BROWSER), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    viewer = done.stdout.split('id="viewer"')[1].split("</section>")[0]
    assert viewer.count('class="entry"') == GROUPS_PER_STEP
    assert viewer.count('class="trajectory"') == 3
    assert len(re.findall(r'class="turn (?:up|down)?"', viewer)) == 9
    assert "Ada Holt birthplace" in viewer
    assert "<mark>Silver Brook</mark>" in viewer
    assert "gold answer first occurs here" in viewer
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in viewer
    assert "<script" not in viewer
