"""What a sweep file may contain, its cells, and a cell as the source of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.config.sources import run_name
from tspo_cli.config.sweeps.sweep_cells import Sweep, experiment_file, experiment_files, read_sweep
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError

BASE = """
[model]
path = "m"
[data]
train = ["t.jsonl"]
[retriever]
index = "i"
"""
SWEEP = """
base = "base.toml"
seeds = [0, 1]
baseline = "grpo"
[settings]
train.steps = 7
optimizer.lr = 1e-3
[arms.grpo]
credit.algorithm = "grpo"
[arms.tspo]
credit.algorithm = "tspo"
optimizer.lr = 5e-4
[axes.start.a]
model.path = "a"
[axes.start.b]
model.path = "b"
seeds = [5]
[grid]
"credit.alpha" = [0.25, 0.5]
"""


def sweep(folder: Path, text: str = SWEEP, *settings: str) -> Sweep:
    (folder / "base.toml").write_text(BASE)
    (folder / "s.toml").write_text(text)
    return read_sweep(folder / "s.toml", settings)


@pytest.mark.parametrize("name", ["sweep.json", "digests.jsonl", "configs", "logs"])
def test_no_arm_has_the_name_of_what_every_sweep_has(tmp_path: Path, name: str) -> None:
    sweep(tmp_path, SWEEP.replace("arms.tspo", f'arms."{name}-2"'))
    with pytest.raises(InvalidInputError, match=f"arms.{name}: is a name in the directory"):
        sweep(tmp_path, SWEEP.replace("arms.tspo", f'arms."{name}"'))


def test_a_name_fits_into_a_file_system(tmp_path: Path) -> None:
    sweep(tmp_path, SWEEP.replace("arms.tspo", f"arms.{'a' * 100}"))
    with pytest.raises(InvalidInputError, match=r"arms\.a{20}\.\.\.: expected at most 100 char"):
        sweep(tmp_path, SWEEP.replace("arms.tspo", f"arms.{'a' * 101}"))


def test_every_combination_is_a_cell_and_seeds_come_first(tmp_path: Path) -> None:
    names = [cell.name for cell in sweep(tmp_path).cells]
    assert names[:4] == [
        f"{arm}/a/alpha={alpha}/seed0" for alpha in ("0.25", "0.5") for arm in ("grpo", "tspo")
    ]
    assert len(names) == len(set(names)) == 2 * 2 * (2 + 1)
    assert {name for name in names if "/b/" in name} == {
        f"{arm}/b/alpha={alpha}/seed5" for arm in ("grpo", "tspo") for alpha in ("0.25", "0.5")
    }


def test_later_layers_win(tmp_path: Path) -> None:
    cells = {cell.name: cell.config for cell in sweep(tmp_path).cells}
    grpo, tspo = cells["grpo/a/alpha=0.25/seed1"], cells["tspo/b/alpha=0.5/seed5"]
    assert (grpo.optimizer.lr, tspo.optimizer.lr) == (1e-3, 5e-4)
    assert (grpo.credit.algorithm, grpo.credit.alpha, grpo.seed, grpo.model.path) == (
        "grpo",
        0.25,
        1,
        "a",
    )
    assert (tspo.credit.alpha, tspo.seed, tspo.model.path, tspo.train.steps) == (0.5, 5, "b", 7)
    assert {cell.config.train.steps for cell in sweep(tmp_path, SWEEP, "train.steps=2").cells} == {
        2
    }


def test_an_experiment_file_with_the_seed_is_the_cell(tmp_path: Path) -> None:
    plan = sweep(tmp_path)
    files = experiment_files(plan, tmp_path / "configs")
    (tmp_path / "configs").mkdir()
    for path, text in files.items():
        path.write_text(text)
    shared, *variants = files
    assert len(variants) == 2 * 2 * 2
    for path in variants:
        assert "seed = " not in files[path]
        assert len(files[path].splitlines()) < 20 < len(files[shared].splitlines())
    for cell in plan.cells:
        path = experiment_file(tmp_path / "configs", cell.variant)
        assert load_config([path], [f"seed={cell.seed}"]) == cell.config


def test_a_cell_is_a_source(tmp_path: Path) -> None:
    plan = sweep(tmp_path)
    file = (tmp_path / "s.toml").rename(tmp_path / "s.sweep.toml")
    for cell in plan.cells:
        source = f"{file}::{cell.variant.name}"
        assert load_config([source], [f"seed={cell.seed}"]) == cell.config
        assert load_config([f"{file}::{cell.name}"]) == cell.config
    only = load_config([f"{file}::grpo/a/alpha=0.5"], ["credit.gate=always", "train.steps=3"])
    assert (only.credit.alpha, only.credit.gate, only.train.steps) == (0.5, "always", 3)


def test_the_seed_of_a_cell_without_a_seed(tmp_path: Path) -> None:
    sweep(tmp_path)
    (tmp_path / "base.toml").write_text(f"seed = 9\n{BASE}")
    assert load_config([f"{tmp_path}/s.toml::grpo/a/alpha=0.5"]).seed == 9  # the sweep has two
    assert load_config([f"{tmp_path}/s.toml::grpo/b/alpha=0.5"]).seed == 5


def test_an_unknown_cell_is_answered_with_the_cells(tmp_path: Path) -> None:
    sweep(tmp_path)
    with pytest.raises(InvalidInputError) as caught:
        load_config([f"{tmp_path}/s.toml::tpso/a/alpha=0.5"])
    message = str(caught.value)
    assert "did you mean tspo/a/alpha=0.5?" in message
    assert "grpo/b/alpha=0.25, tspo/b/alpha=0.25" in message
    assert "\n" not in message
    text = SWEEP.replace("train.steps = 7", "train.steps = 0.5")
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InvalidInputError, match=r"train.steps: .*::grpo/a/alpha=0.5\)"):
        load_config([f"{tmp_path}/bad.toml::grpo/a/alpha=0.5"])
    with pytest.raises(MissingResourceError, match="none"):
        load_config([f"{tmp_path}/none.toml::grpo/a"])
    (tmp_path / "s.toml").rename(tmp_path / "s.sweep.toml")
    with pytest.raises(UsageError, match="name a cell"):
        load_config([tmp_path / "s.sweep.toml"])


def test_the_default_name_of_a_run() -> None:
    assert run_name("tiny/tspo") == run_name("a/tspo.toml") == "tspo"
    assert run_name("a/config.toml") == "config"
    assert run_name("a/hard.sweep.toml::tspo/a0/lr=0.0002") == "hard-tspo-a0-lr=0.0002"


def test_only_some_cells(tmp_path: Path) -> None:
    plan = sweep(tmp_path)
    assert {cell.variant.arm for cell in plan.only(["tspo/*"])} == {"tspo"}
    assert plan.only([]) == plan.cells
    with pytest.raises(UsageError, match="matches no cell"):
        plan.only(["tpso/*"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[settings]", "[setings]", "setings: unknown key; did you mean settings"),
        ("train.steps = 7", "train.steps = 1979-05-27", "expected an integer"),
        ("optimizer.lr = 5e-4", "optimizer.lr = 07:30:00", "expected a number"),
        ("optimizer.lr = 5e-4", "data.types = [1979-05-27T07:30:00Z, 3]", "data.types"),
        ('"credit.alpha" = [0.25, 0.5]', '"credit.alpha" = [1979-05-27]', "expected a number"),
        ('baseline = "grpo"', 'baseline = "ppo"', "expected one of the arms grpo, tspo, got 'ppo'"),
        (
            "train.steps = 7",
            "train.stepps = 7",
            "cell grpo/a/alpha=0.25: train.stepps: unknown key",
        ),
        ('credit.algorithm = "grpo"', "credit.gate = 3", "cell grpo/a/alpha=0.25: credit.gate"),
        ("seeds = [0, 1]", "seeds = [-1]", "seeds: expected a list of integers >= 0"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "two cells are called grpo/a/alpha=0.25/seed0"),
        ('"credit.alpha" = [0.25, 0.5]', "alpha = [0.5]", "expected a quoted key with its section"),
        ('"credit.alpha" = [0.25, 0.5]', '"credit.alpha" = 0.5', "expected lines such as"),
        ('base = "base.toml"', "base = 3", "base: expected the name"),
        ("[axes.start.a]", '[axes.start."a/b"]', "expected a name of letters"),
        ("seeds = [0, 1]", "seeds = [", "not valid TOML"),
        ("seeds = [0, 1]", f"seeds = {[*range(10_001)]}", "at most 10,000 cells"),
        (
            '"credit.alpha" = [0.25, 0.5]',
            "\n".join(f'"credit.x{number}" = {[*range(59)]}' for number in range(8)),
            "at most 10,000 cells (arms x axes x grid x seeds), got",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SWEEP
    with pytest.raises(InvalidInputError) as caught:
        sweep(tmp_path, SWEEP.replace(old, new, 1))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "(--set)" not in str(caught.value)


def test_cells_that_would_share_a_file_are_refused(tmp_path: Path) -> None:
    """A name's `/` is `-` in the names of experiment files and logs."""
    text = SWEEP.replace("[axes.start.b]", "[axes.start.x-a]").replace("arms.tspo", "arms.grpo-x")
    with pytest.raises(InvalidInputError, match=r"grpo-x/a.* and grpo/x-a.* the same files"):
        sweep(tmp_path, text)


def test_cells_that_are_one_file_where_case_does_not_count_are_refused(tmp_path: Path) -> None:
    text = SWEEP.replace("[axes.start.b]", "[axes.start.A]")
    with pytest.raises(InvalidInputError, match=r"/a/.* and .*/A/.* the same files"):
        sweep(tmp_path, text)
    with pytest.raises(InvalidInputError, match=r"arms.Logs: is a name in the directory"):
        sweep(tmp_path, SWEEP.replace("arms.tspo", "arms.Logs"))


@pytest.mark.parametrize("letters", [150, 400])
def test_a_grid_of_long_values_is_refused(tmp_path: Path, letters: int) -> None:
    """The names of its cells could be those of no file."""
    text = SWEEP.replace("arms.tspo", f"arms.{'t' * 100}").replace(
        '"credit.alpha" = [0.25, 0.5]', f'"model.path" = ["{"p/" * (letters // 2)}"]'
    )
    with pytest.raises(InvalidInputError, match=r"at most 200 characters in its name, got .* axes"):
        sweep(tmp_path, text)


def test_a_wrong_setting_is_told_from_a_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"train\.steps: expected .*\(--set\)"):
        sweep(tmp_path, SWEEP, "train.steps=none")
    with pytest.raises(InvalidInputError, match=r"train\.steps: expected .*s\.toml\)"):
        sweep(tmp_path, SWEEP.replace("train.steps = 7", "train.steps = true"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no such sweep file"):
        read_sweep(tmp_path / "none.toml")
    with pytest.raises(MissingResourceError, match="gone"):
        sweep(tmp_path, SWEEP.replace("base.toml", "gone"))
    with pytest.raises(InvalidInputError, match="arms"):
        sweep(tmp_path, SWEEP.split("[arms.grpo]")[0])
