"""Recipes by name: the working directory first, then what came with the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tspo_cli.config.load_config import list_recipes, load_config, recipe_path, write_resolved
from tspo_cli.config.recipes import source_path
from tspo_cli.config.sources import run_name
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.training.planning.estimate import estimate_run
from tspo_cli.training.planning.phases import CARD_SHARE
from tspo_cli.training.planning.step_time import gpu_seconds
from tspo_cli.training.problems import problems, refuse_problems

ANY_MODEL = (
    *("model.path=some/model", "retriever.index=index"),
    *('data.train=["train.jsonl"]', 'data.demonstrations=["demonstrations.jsonl"]'),
)


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "experiments" / "mine"
    folder.mkdir(parents=True)
    (folder / "quick.toml").write_text("seed = 4\n")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_recipe_of_the_working_directory(recipes: Path) -> None:
    assert recipe_path("mine/quick") == Path("experiments/mine/quick.toml")
    assert "mine/quick" in list_recipes()
    (recipes / "_part.toml").write_text("seed = 5\n")
    (recipes / "all.sweep.toml").write_text("[arms.a]\n")
    assert [name for name in list_recipes() if name.startswith("mine/")] == ["mine/quick"]
    assert load_config(["mine/quick"]).seed == 4


def test_a_file_goes_before_a_recipe(recipes: Path) -> None:
    Path("mine").mkdir()
    Path("mine/quick").write_text("seed = 5\n")
    assert load_config(["mine/quick"]).seed == 5


@pytest.mark.parametrize("name", ["mine/quik", "quick", "experiments/mine/quick", "mine/quick.tml"])
def test_an_unknown_name_is_answered_with_the_closest(recipes: Path, name: str) -> None:
    with pytest.raises(
        MissingResourceError, match=r"no such experiment file or recipe; did you mean mine/quick\?"
    ):
        load_config([name])


def test_a_name_like_no_other(recipes: Path) -> None:
    with pytest.raises(MissingResourceError, match="tspo config list"):
        load_config(["zzzzzzzz"])


def test_every_shipped_recipe_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = list_recipes()
    assert {
        "tiny/warmstart",
        "tiny/grpo",
        "tiny/tspo",
        "qwen2.5-3b/tspo",
        "qwen2.5-7b/tspo",
    } <= set(names)
    for name in names:
        refuse_problems(load_config([name], ANY_MODEL if name.startswith("any/") else ()))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("any/sft", ["data.demonstrations", "model.path"]),
        ("any/grpo", ["data.train", "model.path", "retriever.index"]),
        ("any/tspo", ["data.train", "model.path", "retriever.index"]),
    ],
)
def test_a_recipe_for_any_model_names_the_keys_that_it_lacks(name: str, keys: list[str]) -> None:
    found = list(problems(load_config([name])))
    assert len(found) == len(keys)
    assert all(key in line for key, line in zip(keys, found, strict=True)), found


def test_the_recipes_for_any_model_have_rates_for_real_models() -> None:
    sft, grpo, tspo = (load_config([f"any/{name}"], ANY_MODEL) for name in ("sft", "grpo", "tspo"))
    assert (sft.optimizer.lr, grpo.optimizer.lr, tspo.optimizer.lr) == (1e-5, 1e-6, 1e-6)
    assert sft.loss.context_weight == 0
    for config in (sft, grpo, tspo):
        rollout = config.rollout
        limits = (rollout.max_new_tokens, rollout.max_observation_tokens, rollout.max_prompt_tokens)
        assert (*limits, config.retriever.k) == (500, 500, 2048, 3)
        assert rollout.engine == "transformers"


def test_warm_ups_fit_the_updates_of_their_runs() -> None:
    """Search-R1 warms up over 0.285 of 1,005 steps and stops at 500, as its recipes do here."""
    shares = {}
    for name in list_recipes():
        config = load_config([name])
        per_step = config.train.updates_per_step if config.kind != "sft" else 1
        shares[name] = config.optimizer.warmup / (config.train.steps * per_step)
    fixed = {name: share for name, share in shares.items() if "/search-r1-" in name}
    assert len(fixed) == 4
    assert all(share == pytest.approx(286 / 500) for share in fixed.values())
    assert {name: share for name, share in shares.items() if share > 0.3} == fixed


def test_search_r1_recipes_have_the_optimizer_of_its_code() -> None:
    for name in list_recipes():
        if "/search-r1-" in name:
            optimizer = load_config([name]).optimizer
            assert (optimizer.betas, optimizer.weight_decay) == ((0.9, 0.999), 0.01)


def test_recipes_say_whether_they_are_expected_to_reach_a_published_result() -> None:
    for name in list_recipes():
        if name.startswith("qwen2.5-"):
            head = recipe_path(name).read_text(encoding="utf-8").split("extends =")[0]
            expected = "/search-r1-" not in name
            assert ("Not expected to reach Search-R1's published EM" in head) == expected, name


def test_the_experiment_of_a_run_directory_has_the_name_of_the_run(tmp_path: Path) -> None:
    """Without --out, `config.toml` of a run would begin another run in runs/config."""
    run = tmp_path / "mine"
    run.mkdir()
    write_resolved(load_config(["tiny/tspo"]), run)
    assert run_name(run / "config.toml") == "mine"
    with pytest.raises(
        InvalidInputError, match=r"mine: a run directory; .*mine/config\.toml --out"
    ):
        source_path(run)


@pytest.mark.parametrize(
    ("name", "gpus", "gib"),
    [
        *(
            (f"qwen2.5-{size}/{arm}", 8, 80)
            for size in ("3b", "7b")
            for arm in ("grpo", "tspo-instruct")
        ),
        *(
            (f"qwen2.5-{size}/{arm}", 8, 80)
            for size in ("3b", "7b")
            for arm in ("ppo", "search-r1-grpo")
        ),
        *((f"qwen2.5-3b/{arm}-one-gpu", 1, 80) for arm in ("grpo", "tspo", "ppo", "tspo-lora")),
        ("qwen2.5-7b/tspo-lora-one-gpu", 1, 80),
        ("qwen2.5-7b/tspo-two-nodes", 16, 80),
    ],
)
def test_a_recipe_fits_the_gpus_that_it_names(name: str, gpus: int, gib: float) -> None:
    estimate = estimate_run(load_config([name]), gpus)
    assert estimate["memory_per_process_gib"]["total"] <= gib * CARD_SHARE


TABLE = {
    "3B GRPO or TSPO": ["3b/grpo", "3b/tspo"],
    "3B PPO (a fifth of the rollouts)": ["3b/ppo"],
    "3B GRPO or TSPO, 64 questions": ["3b/grpo-one-gpu", "3b/tspo-one-gpu"],
    "3B PPO, 256 questions, optimisers in CPU memory": ["3b/ppo-one-gpu"],
    "3B TSPO with adapters, 64 questions": ["3b/tspo-lora-one-gpu"],
    "7B GRPO or TSPO": ["7b/grpo", "7b/tspo"],
    "7B PPO (a fifth of the rollouts)": ["7b/ppo"],
    "7B TSPO": ["7b/tspo-two-nodes"],
    "7B TSPO with adapters, 64 questions": ["7b/tspo-lora-one-gpu"],
}


def test_the_page_of_the_recipes_has_the_figures_of_the_plan() -> None:
    page = Path(__file__).parents[2] / "experiments/qwen2.5-3b/README.md"
    rows = re.findall(r"^\| (\dB [^|]+) \| (\d+) \| (\d+) \| (\d+) \|$", page.read_text(), re.M)
    assert [name for name, *_ in rows] == [*TABLE]
    for name, *figures in rows:
        gpus, gib, seconds = map(int, figures)
        for recipe in TABLE[name]:
            config = load_config([f"qwen2.5-{recipe}"])
            estimate = estimate_run(config, gpus)
            assert round(estimate["memory_per_process_gib"]["total"]) == gib, recipe
            assert round(gpu_seconds(config, estimate, 2000, 989, 0.35)) == seconds, recipe
