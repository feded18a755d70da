"""The page in a real browser: filter, sort, open, compare, mask, dark, phone; nothing loads and
nothing runs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.page.browser import open_browser
from tests.reporting.tree import make_evaluation, make_tree, trajectory
from tspo_cli import runs
from tspo_cli.reporting.page.page import render_page
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.sources.run_view import open_runs
from tspo_cli.text.printable import printable

pytestmark = pytest.mark.slow
MANY = 5000
EVIL = (
    '</script><script>window.pwned = 1</script><img src=x onerror="window.pwned = 2"></body></html>'
    "<!-- <svg onload=window.pwned=3> ]]> <style>*{display:none}</style><base href=//evil> <a "
    "href=javascript:1>"
    "\u202eright to left\u2066\x00\x1b[2J\u2028end"
)
CONTRAST = """
const rgba = (text) => {
  const [r, g, b, a] = text.match(/-?[0-9.]+(e-?[0-9]+)?/g).map(Number);
  const scale = text.startsWith("color(") ? 1 : 255;
  return [r / scale, g / scale, b / scale, a === undefined ? 1 : a];
};
const over = (top, below) => [0, 1, 2].map((at) => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
const light = (color) => {
  const [r, g, b] = color.slice(0, 3).map((part) => (part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4));
  return .2126 * r + .7152 * g + .0722 * b;
};
const found = {};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, option")) continue;
  const parents = [];
  for (let one = element; one; one = one.parentElement) parents.unshift(getComputedStyle(one));
  const paper = parents.reduce((below, one) => over(rgba(one.backgroundColor), below), [1, 1, 1, 1]);
  const ink = rgba(parents.at(-1)[element.closest("svg") ? "fill" : "color"]);
  ink[3] *= parents.reduce((product, one) => product * Number(one.opacity), 1);
  const pair = [light(over(ink, paper)), light(paper)].sort((a, b) => b - a);
  const ratio = (pair[0] + .05) / (pair[1] + .05);
  if (ratio < 4.5) found[`${element.tagName} ${element.className}`] = ratio.toFixed(2);
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = open_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def demo_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = make_tree(tmp_path_factory.mktemp("tree"), steps=5)
    return write_page(demo.parent / "page.html", demo, baselines=["grpo"])


def write_page(
    file: Path, root: Path, items: int = 200, baselines: list[str] | None = None
) -> Path:
    file.write_text(
        render_page(RunReport(open_runs([root]), baselines=baselines or []), items=items),
        encoding="utf-8",
    )
    return file


@pytest.fixture
def opened(browser: Any, demo_page: Path) -> Iterator[Any]:
    """The demo page, freshly loaded; afterwards it must have been quiet."""
    load(browser, demo_page)
    yield browser
    assert_quiet(browser)


def load(browser: Any, page: Path) -> None:
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    wait(
        browser,
        lambda: (
            browser.execute_script("return document.querySelectorAll('#detail .trajectory').length")
            > 0
        ),
    )


def wait(browser: Any, ready: Callable[[], object]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20, poll_frequency=0.02).until(lambda _: ready())


def assert_quiet(browser: Any) -> None:
    """No console message, and no request but for the page itself. (A browser's own first tab has
    requests too.)
    """
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    own = ("chrome://", "chrome-untrusted://")
    sent = [one["request"]["url"] for one in asked if not one["documentURL"].startswith(own)]
    assert [url for url in sent if not url.startswith("file://")] == []
    assert len(set(sent)) <= 1


def choose(browser: Any, name: str, text: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    select = Select(browser.find_element(By.ID, name))
    select.select_by_visible_text(
        next(one.text for one in select.options if one.text.startswith(text))
    )


def texts(browser: Any, css: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
    return list(browser.execute_script(script, css))


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def shown(browser: Any) -> str:
    return texts(browser, "#count")[0]


def test_filter_and_find(opened: Any) -> None:
    choose(opened, "source-a", "tspo: test at step 5")
    assert shown(opened) == "40 of 40 shown"
    choose(opened, "class", "success")
    assert shown(opened) == "16 of 40 shown"
    choose(opened, "class", "all")
    choose(opened, "verdict", "with invalid turns")
    assert shown(opened) == "24 of 40 shown"
    choose(opened, "verdict", "all")
    opened.find_element("id", "find").send_keys("HOLT number t17")
    assert shown(opened) == "1 of 40 shown"
    opened.find_element("id", "find").clear()
    opened.find_element("id", "find").send_keys("nothing of the kind")
    assert "Nothing here under these filters." in texts(opened, "#list td")
    opened.find_element("css selector", "#filters button[type=reset]").click()
    wait(opened, lambda: shown(opened) == "40 of 40 shown")


def test_sort_by_a_column_and_back(opened: Any) -> None:
    choose(opened, "source-a", "tspo: test at step 5")
    button = "#list button[data-key=em]"
    opened.find_element("css selector", button).click()
    assert texts(opened, "#list tr.item td:nth-child(4)")[:3] == ["1", "1", "1"]
    opened.find_element("css selector", button).click()
    assert texts(opened, "#list tr.item td:nth-child(4)")[0] == "0"
    head = opened.find_element("css selector", "#list th:nth-child(4)")
    assert head.get_attribute("aria-sort") == "ascending"


def test_open_a_training_rollout_with_rewards_and_advantages(opened: Any) -> None:
    choose(opened, "source-a", "tspo: rollouts of step 5")
    opened.find_elements("css selector", "#list tr.item")[2].click()
    wait(opened, lambda: "number 2 " in texts(opened, "#detail h3")[0])
    assert len(texts(opened, "#detail .trajectory")) == 3
    assert all(
        "reward" in one and "advantage" in one for one in texts(opened, "#detail .turn-head")
    )
    assert "Ada Holt birthplace" in texts(opened, "#detail .query")
    for css in (".in-think", ".in-search", ".passages mark"):
        assert texts(opened, f"#detail {css}"), css


def test_compare_two_runs_on_one_question(opened: Any) -> None:
    choose(opened, "source-a", "tspo: test at step 5")
    choose(opened, "source-b", "grpo: test at step 5")
    choose(opened, "verdict", "A right, B wrong")
    assert shown(opened) == "10 of 40 shown"
    wait(opened, lambda: len(texts(opened, "#detail .pane")) == 2)
    left, right = texts(opened, "#detail .pane")
    assert "tspo: test at step 5" in left
    assert "answer: Silver Brook" in left
    assert "grpo: test at step 5" in right
    assert "answer: none" in right
    boxes = [one.rect for one in opened.find_elements("css selector", "#detail .pane")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


def test_the_loss_mask_counts_sampled_tokens_only(opened: Any) -> None:
    choose(opened, "source-a", "tspo: rollouts of step 5")
    opened.find_element("id", "mask").click()
    wait(opened, lambda: texts(opened, "#detail .mask"))
    assert (
        "51 sampled tokens with mask 1, 200 tokens of prompt and feedback with mask 0"
        in texts(opened, ".mask p")[0]
    )
    assert texts(opened, "#detail .mask")[0].count("17 × 1") == 3
    assert texts(opened, "#detail .mask")[0].count("40 × 0") == 2


def test_the_keyboard_is_enough(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    choose(opened, "source-a", "tspo: test at step 5")
    opened.execute_script("document.activeElement.blur()")
    press(opened, "j", "j", "k")
    wait(opened, lambda: "number 1 " in texts(opened, "#detail h3")[0])
    press(opened, "/")
    assert opened.switch_to.active_element.get_attribute("id") == "find"
    press(opened, Keys.ESCAPE, Keys.END)
    wait(opened, lambda: "number 39 " in texts(opened, "#detail h3")[0])
    selected, frame = opened.execute_script(  # at once: the list draws its rows anew
        "return ['#list tr[aria-selected=true]', '#list'].map("
        "(place) => document.querySelector(place).getBoundingClientRect().toJSON())"
    )
    assert frame["y"] <= selected["y"] <= frame["y"] + frame["height"] - selected["height"] + 1
    press(opened, Keys.HOME, Keys.PAGE_DOWN, Keys.ARROW_UP)
    wait(opened, lambda: "number 9 " in texts(opened, "#detail h3")[0])
    press(opened, Keys.ENTER)
    assert opened.switch_to.active_element.get_attribute("id") == "detail"
    press(opened, "m")
    wait(opened, lambda: texts(opened, "#detail .mask"))


def background(browser: Any) -> str:
    return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))


def test_dark_follows_the_system_and_the_button(opened: Any) -> None:
    assert background(opened) == "rgb(255, 255, 255)"
    for scheme, before, after in (
        ("dark", "rgb(21, 23, 27)", "rgb(255, 255, 255)"),
        ("light", "", ""),
    ):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        if before:
            assert background(opened) == before
            opened.find_element("id", "theme").click()
            assert background(opened) == after


def test_text_stands_out_in_light_and_dark(opened: Any) -> None:
    choose(opened, "source-a", "tspo: rollouts of step 5")
    opened.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        assert opened.execute_script(CONTRAST) == {}, scheme
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_what_can_be_used_has_a_name_and_shows_its_focus(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("document.activeElement.blur()")
    seen = []
    for _ in range(60):
        press(opened, Keys.TAB)
        script = """
        const one = document.activeElement;
        const name = one.labels?.[0]?.textContent || one.getAttribute("aria-label") || one.textContent;
        const { outlineStyle, outlineWidth } = getComputedStyle(one);
        return [one.tagName, name.trim(), outlineStyle === "none" ? 0 : parseFloat(outlineWidth)];
        """
        found = opened.execute_script(script)
        if found[0] == "BODY":
            break
        seen.append(found)
    assert {"A", "BUTTON", "SELECT", "INPUT", "SUMMARY", "DIV"} <= {tag for tag, _, _ in seen}
    assert all(name for _, name, _ in seen)
    assert all(width >= 1 for _, _, width in seen)


def test_a_phone_needs_no_sideways_scrolling(opened: Any) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    choose(opened, "source-a", "tspo: test at step 5")
    choose(opened, "source-b", "grpo: test at step 5")
    wait(opened, lambda: len(texts(opened, "#detail .pane")) == 2)
    assert opened.execute_script("return document.documentElement.scrollWidth") == 390
    boxes = [one.rect for one in opened.find_elements("css selector", "#detail .pane")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_text_does_nothing(browser: Any, tmp_path: Path) -> None:
    demo = make_tree(tmp_path, hostile=True, steps=2)
    path = demo / "tspo" / "eval" / "step_000002" / "test.items.jsonl.gz"
    items = list(runs.read_jsonl_gz(path))
    for item in items:
        item["question"] += EVIL
        item["golden_answers"].append(EVIL)
        item["trajectory"]["turns"][0]["passages"][0] |= {"id": EVIL, "contents": EVIL * 3}
        item["trajectory"]["turns"][0] |= {"text": EVIL, "query": EVIL}
        item["trajectory"]["turns"][1]["passages"][0]["contents"] = "long " + "x" * 2**20
        item["trajectory"] |= {"answer": EVIL}
    runs.write_jsonl_gz(path, items)
    load(browser, write_page(tmp_path / "page.html", demo))
    choose(browser, "source-a", "tspo: test at step 2")
    wait(browser, lambda: "evil" in texts(browser, "#detail h3")[0])
    assert printable(EVIL) in texts(browser, "#detail h3")[0]
    assert printable(EVIL) in texts(browser, "#detail .passages .body")[0]
    assert browser.execute_script("return [typeof window.pwned, document.images.length]") == [
        "undefined",
        0,
    ]
    assert (
        browser.execute_script(
            "return document.querySelectorAll('base, svg[onload], a[href^=java]').length"
        )
        == 0
    )
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert_quiet(browser)


def test_five_thousand_items_open_in_two_seconds(browser: Any, tmp_path: Path) -> None:
    draw = random.Random(0)
    vocabulary = [
        "".join(draw.choices("abcdefghiklmnoprstuvw", k=draw.randint(2, 10))) for _ in range(5000)
    ]

    def item(index: int) -> dict[str, Any]:
        one = trajectory(0, "Silver Brook" if index % 3 else None, hit=1 if index % 2 else None)
        for turn in one["turns"]:
            for passage in turn["passages"]:
                passage["contents"] += " " + " ".join(draw.choices(vocabulary, k=90))
        em = float(index % 3 > 0)
        question = f"Which river flows through town number {index}?"
        golds = {"golden_answers": ["Silver Brook"], "em": em, "f1": em}
        return {"id": f"q{index}", "question": question, **golds, "trajectory": one}

    make_evaluation(
        tmp_path / "evals" / "agent", "search_r1", [item(index) for index in range(MANY)]
    )
    page = write_page(tmp_path / "page.html", tmp_path / "evals", items=0)
    browser.switch_to.new_window(
        "tab"
    )  # a renderer of its own, whose processor time is that of this page
    browser.execute_cdp_cmd("Performance.enable", {})
    load(browser, page)
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    seconds = next(one["value"] for one in metrics if one["name"] == "ProcessTime")
    timing = browser.execute_script(
        "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    )
    assert shown(browser) == f"{MANY} of {MANY} shown"
    assert 0 < seconds < 2, "of processor time, which other work on the machine does not change"
    assert len(texts(browser, "#list tr.item")) < 60, "only the rows in sight are in the document"
    browser.find_element("id", "find").send_keys("number 4321?")
    wait(
        browser,
        lambda: (
            shown(browser) == f"1 of {MANY} shown"
            and "number 4321?" in texts(browser, "#detail h3")[0]
        ),
    )
    print(
        f"{MANY} items, {page.stat().st_size / 1e6:.1f} MB: opened in {timing:.0f} ms, "
        f"{seconds:.2f} CPU s"
    )
    assert_quiet(browser)
