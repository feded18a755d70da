"""Documents do not lie: every link, command, key and path in them exists, and they stay short."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.documents import (
    ROOT,
    bad_commands,
    bad_keys,
    blocks,
    broken_links,
    long_lines,
    missing_paths,
    unbalanced_fences,
)
from tspo_cli import __version__
from tspo_cli.commands.app import app
from tspo_cli.config.keys import keys_page

PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in (
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md"),
        *("data/*.md", "data/cards/*.md", "experiments/**/*.md"),
    )
    for page in ROOT.glob(pattern)
)


def problems(page: Path, text: str, *, strict: bool = False) -> list[str]:
    """Everything that is wrong with a page."""
    return [
        *unbalanced_fences(text),
        *long_lines(text, strict=strict),
        *broken_links(page, text),
        *missing_paths(text),
        *bad_commands(text),
        *bad_keys(text),
    ]


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name: str) -> None:
    page = ROOT / name
    assert problems(page, page.read_text("utf-8"), strict=name == "README.md") == []


def test_the_readme_is_read_in_one_sitting() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1500


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_a_page_of_docs_is_short_and_is_linked_from_the_readme(page: Path) -> None:
    longest = 400 if page.name == "configuration.md" else 300  # a table of all keys, made by us
    assert len(page.read_text("utf-8").splitlines()) <= longest
    assert f"docs/{page.name}" in (ROOT / "README.md").read_text("utf-8")


def test_the_page_of_all_keys_is_current() -> None:
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    assert page == keys_page(), "write it again: tspo config schema --markdown"
    assert "|  |" not in page, "every key has a meaning"


def test_all_files_agree_on_the_version() -> None:
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"## [{__version__}] - " in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["README.md", "docs/algorithms.md"])
def test_the_examples_in_python_work(name: str, tmp_path: Path) -> None:
    """Each block defines one function, and its first line names the file it belongs to."""
    group = tmp_path / "group.json"
    worked_out = blocks((ROOT / "docs/concepts.md").read_text("utf-8"))
    group.write_text(next(body for language, body in worked_out if language == "json"))
    for language, body in blocks((ROOT / name).read_text("utf-8")):
        if language == "python":
            file = tmp_path / body.split()[1]
            file.write_text(body, encoding="utf-8")
            function = re.findall(r"^def (\w+)", body, re.MULTILINE)[-1]
            key = "outcome" if function == "reward" else "algorithm"
            setting = f"credit.{key}={file}:{function}"
            result = CliRunner().invoke(app, ["credit", str(group), "--set", setting, "--json"])
            assert result.exit_code == 0, (file.name, result.output)
            turns = [len(row["advantages"]) for row in json.loads(result.stdout)["trajectories"]]
            assert turns == [3, 2, 2]


def test_the_output_of_the_worked_out_group_is_current(tmp_path: Path) -> None:
    page = list(blocks((ROOT / "docs/concepts.md").read_text("utf-8")))
    (tmp_path / "group.json").write_text(next(body for name, body in page if name == "json"))
    result = CliRunner().invoke(app, ["credit", str(tmp_path / "group.json")])
    shown = next(body for name, body in page if name == "text" and "near-miss" in body)
    assert shown.split() == result.stdout.split()


GOOD = """\
# A page

See [the other](other.md#second-part), [below](#a-page) and `train.steps = 3`.

```sh
tspo train tiny/tspo --set train.steps=20 \\
    --set 'eval.data=["a.jsonl"]' --out runs/a   # a comment
tspo config show tiny/tspo > mine.toml && tspo plan mine.toml --gpus N
$(tspo train tiny/tspo --print-launch torchrun --gpus 8)
tspo credit runs/a -a grpo -a "tspo gate=always"
tspo index build c.jsonl --out idx --kind dense --encoder DIR --set nprobe=3
make env EXTRAS=dev
```

The command `tspo index build` and `make test`.

```toml
extends = "base.toml"
[train]
steps = 3
```

```toml
base = "tiny/grpo"
seeds = [0]
[arms.tspo]
credit.algorithm = "tspo"
[axes.start.a]
seeds = [1]
model.path = "x"
[grid]
"optimizer.lr" = [1e-4]
```
"""


def test_a_good_page_has_no_problems(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Other\n\n## Second part\n", encoding="utf-8")
    assert problems(tmp_path / "page.md", GOOD) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](nowhere.md)", "link nowhere.md: no such file"),
        ("![a](nowhere.svg)", "link nowhere.svg: no such file"),
        ("[![badge](nowhere.svg)](page.md)", "link nowhere.svg: no such file"),
        ("# Head\n\n[a](#hat)", "link #hat: no such heading"),
        ("[a](other.md#third-part)", "link other.md#third-part: no such heading"),
        ("```sh\ntspo tran x.toml\n```", "no command tran"),
        ("```sh\ntspo index bild x\n```", "no command bild"),
        ("```sh\ntspo train x.toml --reset\n```", "No such option"),
        ("```sh\ntspo train x.toml \\\n  --reset\n```", "No such option"),
        ("```sh\n.venv/bin/tspo train x.toml | tspo tran\n```", "no command tran"),
        ("    tspo train x.toml --reset\n", "No such option"),
        ("Type `tspo train x.toml --reset`.", "No such option"),
        ("```sh\ntspo train\n```", "Missing parameter"),
        ("```sh\ntspo plan x.toml --gpus many\n```", "integer"),
        ("```sh\ntspo train tiny/nothing\n```", "no recipe tiny/nothing"),
        ("Type `tspo train experiments/evidence/hard.sweep.toml::tspo/z9`.", "no such cell"),
        ("```sh\ntspo train x.toml --set train.step=3\n```", "train.step=3: no such key"),
        ("```sh\ntspo train x.toml --set train.steps=few\n```", "expected an integer"),
        ("```sh\ntspo index search idx q --set shard_size=3\n```", "no such setting of an index"),
        ("```sh\ntspo index build c --out i --set nprobes=3\n```", "no such setting of an index"),
        ('```sh\ntspo credit run -a "tspo gates=always"\n```', "no option gates=always"),
        ("```sh\ntspo credit run -a gropo\n```", "no algorithm gropo"),
        ("```sh\nmake tests\n```", "no target tests"),
        ("Type `make env EXTRA=dev`.", "no variable EXTRA"),
        ("```sh\ntspo train 'x.toml\n```", "No closing quotation"),
        ("The key `train.step`.", "`train.step`: no such key"),
        ("```toml\n[train]\nstep = 3\n```", "train.step: no such key"),
        ('```toml\nbase = "x"\n[arms.a]\ntrain.step = 3\n```', "train.step: no such key"),
        ("```toml\n[train\n```", "TOML block"),
        ("See `tspo_cli/nowhere.py`.", "tspo_cli/nowhere.py: no such file"),
        ("```sh\npython experiments/none.py\n```", "experiments/none.py: no such file"),
        ("```sh\ntspo demo\n", "a code block is not closed"),
        ("word " * 21, "line 1 has 105 columns"),
    ],
)
def test_a_bad_page_is_found_out(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "other.md").write_text("# Other\n\n## Second part\n", encoding="utf-8")
    (tmp_path / "page.md").write_text("", encoding="utf-8")
    assert any(problem in found for found in problems(tmp_path / "page.md", text))


def test_long_tables_are_problems_in_the_readme_alone() -> None:
    row = "| " + "cell " * 25 + "|"
    assert list(long_lines(row)) == []
    assert list(long_lines(row, strict=True)) == ["line 1 has 128 columns"]
