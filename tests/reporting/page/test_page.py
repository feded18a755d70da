"""The page: self-contained, safe with hostile text, the same for the same runs, and alive in a
browser.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.tree import HOSTILE, make_run, make_tree
from tspo_cli import __version__, runs
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.reporting.page.charts import Chart, Line, svg
from tspo_cli.reporting.page.page import render_page
from tspo_cli.reporting.page.page_items import GROUPS_PER_STEP, LONGEST_TEXT, PER_CHUNK, item_data
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.sources.run_view import open_runs


def page_of(root: Path, items: int = 200) -> str:
    return render_page(RunReport(open_runs([root])), items=items)


def unpacked(chunk: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(chunk)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"), hostile=True, steps=5)


def chunks_of(page: str) -> list[str]:
    return re.findall(r'<script type="text/plain" id="chunk-\d+">([^<]*)</script>', page)


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
    assert not re.search(
        r"""(?:src|href|action)\s*=\s*["']?\s*(?!#)[\w/]""", page.split('id="index"')[0]
    )
    page = re.sub(r'(id="chunk-\d+">)[^<]*', r"\1", page)  # base64 may hold any letters
    assert not re.search(
        r"https?://|//\w|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", page
    )
    assert not {"link", "img", "iframe", "object", "base"} & set(Elements(page).tags)


def test_hostile_text_stays_text(hostile: Path) -> None:
    page = page_of(hostile)
    elements = Elements(page)
    assert elements.tags.count("script") == 2 + len(chunks_of(page))
    assert not any(name.startswith("on") for name, _ in elements.attributes)
    assert HOSTILE in json.loads(elements.json)["questions"][0][1]
    assert "<" not in elements.json


def test_hostile_names_and_settings_are_escaped(tmp_path: Path) -> None:
    config = Config.model_validate({"credit": {"algorithm": "<img src=x onerror=alert(1)>"}})
    make_run(tmp_path / "<b>run & </title><script>", config, 2, {0: 0.1, 2: 0.2})
    elements = Elements(page_of(tmp_path))
    assert "onerror" not in dict(elements.attributes)
    assert "img" not in elements.tags
    assert "b" not in elements.tags


def test_equal_runs_give_equal_pages(hostile: Path) -> None:
    assert page_of(hostile) == page_of(hostile)


def test_what_the_page_says(hostile: Path) -> None:
    page = page_of(hostile)
    assert "One seed proves nothing" in page
    assert "tspo-b: running at step 2 of 5" in page
    for figure in (
        "Exact match on test",
        "Training reward",
        "Composition of groups: grpo",
        "Searches per training",
    ):
        assert figure in page
    assert f"tspo {__version__}" in page
    assert "credit.success_turns" in page
    assert "credit.gigpo.coef" in page
    assert "0.0002" in page


def test_the_page_holds_a_fixed_part_of_every_run(hostile: Path) -> None:
    data = item_data(open_runs([hostile]), items=30)
    tspo = [source for source in data.index["sources"] if source["run"] == "tspo"]
    assert [(source["label"], len(source["rows"]), source["of"]) for source in tspo] == [
        ("test at step 5", 30, 40),
        ("test at step 0", 30, 40),
        *[(f"rollouts of step {step}", GROUPS_PER_STEP, 10) for step in (1, 3, 5)],
    ]
    assert [source["chunk"] for source in tspo[:2]] == [tspo[0]["chunk"], tspo[0]["chunk"] + 2]
    assert [len(unpacked(data.chunks[tspo[0]["chunk"] + part])) for part in (0, 1)] == [
        PER_CHUNK,
        30 - PER_CHUNK,
    ]
    everything = item_data(open_runs([hostile / "tspo"]), items=0)
    assert [len(source["rows"]) for source in everything.index["sources"]][:2] == [40, 40]


def test_a_question_stands_once_for_all_runs(hostile: Path) -> None:
    index = item_data(open_runs([hostile]), items=0).index
    questions = [tuple(question[:2]) for question in index["questions"]]
    assert len(questions) == len(set(questions))
    grpo, tspo = (
        next(
            one
            for one in index["sources"]
            if one["run"] == run and one["label"] == "test at step 5"
        )
        for run in ("grpo", "tspo")
    )
    assert [row[0] for row in grpo["rows"]] == [row[0] for row in tspo["rows"]]


def test_evaluated_items_are_judged_like_rollouts(hostile: Path) -> None:
    data = item_data(open_runs([hostile / "tspo"]), items=5)
    outcome, _, name, searches, invalid, tokens, answer, queries = data.index["sources"][0]["rows"][
        0
    ][2][0]
    assert (outcome, name, searches, invalid, tokens, answer) == (
        1.0,
        "success",
        2,
        0,
        51,
        "Silver Brook",
    )
    assert queries == "Ada Holt birthplace\nMarrowick river"
    one = unpacked(data.chunks[0])[0]["rollouts"][0]
    assert one["first"] == 1
    assert one["turns"][0]["passages"][0][2][1] == "Silver Brook"


def test_long_texts_are_cut_and_say_so(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    path = demo / "tspo" / "eval" / "step_000004" / "test.items.jsonl.gz"
    items = list(runs.read_jsonl_gz(path))
    items[0]["trajectory"]["turns"][0]["passages"][0]["contents"] = "x" * 2**20
    items[0]["question"] = "why \ud800?"
    runs.atomic_write_bytes(
        path, gzip.compress("".join(json.dumps(one) + "\n" for one in items).encode())
    )
    data = item_data(open_runs([demo / "tspo"]), items=1)
    text = "".join(unpacked(data.chunks[0])[0]["rollouts"][0]["turns"][0]["passages"][0][2])
    assert text == "x" * LONGEST_TEXT + " … (1,048,576 characters)"
    assert len(page_of(demo).encode("utf-8")) < 2**20


def test_runs_without_steps_or_evaluations_make_a_page(tmp_path: Path) -> None:
    run = tmp_path / "new"
    run.mkdir()
    runs.write_json(run / runs.CONFIG_NAME, Config().section_dict())
    page = page_of(tmp_path)
    assert "No evaluation yet." in page
    assert "No training steps yet." in page


def test_values_that_are_no_numbers_do_not_break_curves(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    runs.append_jsonl(
        demo / "grpo" / "metrics.jsonl", {"step": 5, "reward": float("nan"), "entropy": None}
    )
    assert "nan" not in "".join(re.findall(r"points=\"[^\"]*\"", page_of(demo)))


def test_a_damaged_rollout_file_is_named(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    (demo / "grpo" / "rollouts" / "step_000001.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(InvalidInputError, match=r"step_000001.jsonl.gz: damaged"):
        page_of(demo)


def test_a_chart_of_zeros_has_an_axis_that_can_be_read() -> None:
    zeros = Line("grpo", 0, ((1.0, 0.0), (2.0, 0.0)))
    drawn = svg(Chart("Groups", "step", "share", (zeros,), percent=True))
    assert re.findall(r">([^<]*%)<", drawn) == ["0%", "20%", "40%"]
