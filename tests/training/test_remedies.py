"""A policy that collapses: signs in the metrics, and what a run does then."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Playground, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import best_checkpoints, read_json, read_jsonl, read_jsonl_gz, rollout_files
from tspo_cli.training.problems import refuse_problems
from tspo_cli.training.remedies.collapse import CollapseSigns
from tspo_cli.training.remedies.remedy import Remedies

HEALTHY = {"correct_logprob": -0.2, "searches": 1.8, "answered_share": 0.95, "entropy": 0.5}


def signs_of(rows: list[dict[str, float]], *settings: str) -> list[list[Any]]:
    signs = CollapseSigns(load_config([], ["collapse.window=2", *settings]).collapse)
    return [signs.after(row) for row in rows]


@pytest.mark.parametrize(
    ("metric", "harmless", "fallen", "words"),
    [
        ("correct_logprob", -0.44, -0.45, ["from -0.20 to -0.45 nats", "loss.kl"]),
        ("searches", 0.91, 0.9, ["from 1.80 to 0.90", "credit.algorithm = tspo"]),
        ("answered_share", 0.71, 0.7, ["from 95% to 70%", "credit.outcome = f1_plus"]),
        ("entropy", 0.051, 0.05, ["from 0.500 to 0.050 nats", "loss.entropy"]),
    ],
)
def test_each_sign_names_what_fell_and_a_remedy(
    metric: str, harmless: float, fallen: float, words: list[str]
) -> None:
    calm = [HEALTHY, HEALTHY, *[HEALTHY | {metric: harmless}] * 8]
    assert not any(signs_of(calm))
    found = signs_of([HEALTHY, HEALTHY, *[HEALTHY | {metric: fallen - 1e-9}] * 3])
    assert [len(signs) for signs in found] == [0, 0, 0, 1, 1]
    (sign,) = found[-1]
    assert (sign.metric, sign.lasted) == (metric, 2)
    assert all(word in sign.sentence for word in [*words, "lower optimizer.lr"]), sign.sentence
    off = {"correct_logprob": "logprob", "answered_share": "answered"}.get(metric, metric)
    rows = [HEALTHY, HEALTHY, *[HEALTHY | {metric: -9.0 if fallen < 0 else 0.0}] * 3]
    assert not any(signs_of(rows, f"collapse.{off}=0"))


def test_the_best_mean_counts_however_long_ago_and_steps_without_the_metric_do_not() -> None:
    slow = [{"answered_share": 1 - 0.01 * step} for step in range(40)]
    first = next(step for step, signs in enumerate(signs_of(slow)) if signs)
    assert first == 26, "the mean of steps 25 and 26 is 0.25 below that of steps 0 and 1"
    rare = [{"searches": 1.0}, {"correct_logprob": -0.1}, {}, {"correct_logprob": -0.1}] * 2
    assert not any(signs_of(rare))
    assert not any(signs_of([{"searches": 0.19}] * 2 + [{"searches": 0.0}] * 9)), "never searched"


@pytest.mark.parametrize("spread", [0.1, 0.2, 0.3, 1.0])
def test_noise_is_no_collapse_and_a_fall_through_it_is(spread: float) -> None:
    alarms, seen = 0, 0
    for seed in range(20):
        noise = [Random(f"{seed}/{step}").gauss(-1.0, spread) for step in range(300)]
        config = load_config([], []).collapse
        calm, falling = CollapseSigns(config), CollapseSigns(config)
        alarms += any(calm.after({"correct_logprob": value}) for value in noise)
        fall = [value - max(0, step - 150) * 0.05 for step, value in enumerate(noise)]
        seen += any(falling.after({"correct_logprob": value}) for value in fall)
    assert alarms <= 1
    assert seen == 20


def test_a_policy_that_needs_fewer_searches_has_learned() -> None:
    rows = [HEALTHY | {"searches": max(1.0, 3 - 0.05 * step)} for step in range(60)]
    better = [row | {"reward": 0.01 * step} for step, row in enumerate(rows)]
    assert any(signs_of(rows, "collapse.window=10"))
    assert not any(signs_of(better, "collapse.window=10"))
    worse = [row | {"reward": max(0.0, 0.6 - 0.01 * step)} for step, row in enumerate(rows)]
    assert any(signs_of(worse, "collapse.window=10")), "the reward falls too"


def test_after_a_remedy_the_means_start_anew() -> None:
    low = HEALTHY | {"searches": 0.5}
    rows = [*[HEALTHY] * 2, *[low] * 2, *[low | {"lr_lowered": 1.0}] * 6]
    found = [len(signs) for signs in signs_of(rows)]
    assert found == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    again = [*rows, *[low | {"lr_lowered": 1.0, "searches": 0.2}] * 2]
    assert len(signs_of(again)[-1]) == 1, "a further fall"


# Any fall of the entropy counts, so that a few steps show some.
EAGER = {"collapse__window": 1, "collapse__entropy": 0.01, "checkpoint__every": 2}
SILENT = {"collapse__logprob": 0, "collapse__answered": 0, "collapse__searches": 0}


def train(playground: Playground, run: Path, steps: int, *flags: str, **more: object) -> None:
    """Train with a reward that differs within groups, so that every step changes the weights."""
    reward = run.parent / "reward.py"
    reward.write_text("def length(answer, golds, trajectory):\n    return len(answer or '') / 10\n")
    values = {"eval__every": 0, "eval__at_start": "false", **EAGER, **SILENT, **more}
    values["credit__outcome"] = f"{reward}:length"
    settings = playground.settings(**{"train__steps": steps, **values})
    done = run_tspo("train", "tiny/grpo", "--out", run, *settings, *flags)
    assert done.code == 0, done.err


def contents(run: Path) -> dict[str, bytes]:
    kept = ("metrics.jsonl", "model/*", "rollouts/*", "eval/*/*", "checkpoints/*/*")
    kept += ("best_checkpoints/*/*", "best/*")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for pattern in kept
        for path in sorted(run.glob(pattern))
        if path.name != "digests.jsonl"
    }


@pytest.mark.slow
def test_stop_ends_the_run_with_its_reason_and_a_checkpoint(
    playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(playground, run, 7, train__on_warning="stop")
    status, rows = read_json(run / "status.json"), read_jsonl(run / "metrics.jsonl")
    assert status["state"] == "finished"
    assert status["step"] == len(rows) < 7
    assert "the entropy fell from" in status["stopped_early"]
    assert "train.on_warning = stop" in status["stopped_early"]
    assert (run / "checkpoints" / f"step_{len(rows):06d}").is_dir()
    assert (run / "model/model.safetensors").is_file()
    shown = run_tspo("runs", "show", run).out
    assert f"warning: step {len(rows)}: the entropy fell" in shown
    # With another remedy it goes on; what was said stays said.
    train(playground, run, len(rows) + 1, "--resume", train__on_warning="none")
    assert len(read_jsonl(run / "metrics.jsonl")) == len(rows) + 1
    assert status["warnings"][0] in read_json(run / "status.json")["warnings"]


@pytest.mark.slow
def test_the_rate_is_lowered_a_stated_number_of_times_and_resumes_exactly(
    playground: Playground, tmp_path: Path
) -> None:
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    lower = {"train__on_warning": "lower_lr", "collapse__most": 1, "collapse__lr_factor": 0.1}
    train(playground, straight, 7, **lower)
    rows = read_jsonl(straight / "metrics.jsonl")
    taken = [row["lr_lowered"] for row in rows]
    assert taken == sorted(taken)
    assert (taken[0], taken[-1]) == (0, 1)
    assert [row["lr"] for row in rows] == pytest.approx([1e-3 * 0.1**count for count in taken])
    warnings = read_json(straight / "status.json")["warnings"]
    assert sum("train.on_warning = lower_lr, 1 of at most 1" in line for line in warnings) == 1
    middle = taken.index(1)  # the step before it found the sign: its checkpoint has no state of it
    train(playground, parts, middle, **lower)
    train(playground, parts, 7, "--resume", **lower)
    assert contents(parts).items() >= contents(straight).items()
    # Another factor is for what is lowered from now on.
    train(playground, parts, 9, "--resume", **lower | {"collapse__lr_factor": 0.5})
    later = read_jsonl(parts / "metrics.jsonl")[7:]
    assert [(row["lr"], row["lr_scale"]) for row in later] == [(pytest.approx(1e-4), 0.1)] * 2


@pytest.mark.slow
def test_weights_go_back_to_the_best_evaluation_and_questions_go_on(
    playground: Playground, tmp_path: Path
) -> None:
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    reset = {"train__on_warning": "reset_to_best", "collapse__most": 2, "checkpoint__keep": 9}
    reset |= {"eval__every": 2, "eval__limit": 4}
    train(playground, straight, 6, **reset)
    rows = read_jsonl(straight / "metrics.jsonl")
    resets = [row["resets"] for row in rows]
    assert resets[-1] >= 1
    assert all(row["lr"] == 1e-3 for row in rows)
    scores = {
        int(folder.name[5:]): read_json(folder / "world.json")["em"]
        for folder in (straight / "eval").iterdir()
    }
    updates = 0
    for step, row in enumerate(rows, start=1):
        if row["resets"] > (rows[step - 2]["resets"] if step > 1 else 0):
            updates = max((s for s in scores if s < step), key=lambda s: (scores[s], -s))
            assert updates < step - 1, "that would be where the run is"
            said = f"step {step}: training goes on from the weights and optimiser of step {updates}"
            assert any(said in line for line in read_json(straight / "status.json")["warnings"])
            updates = updates_at(straight, updates)
        updates += 1
        if step % 2 == 0:
            assert updates_at(straight, step) == updates
    files = [path for _, path in rollout_files(straight)]
    asked = {str(group["group"]) for path in files for group in read_jsonl_gz(path)}
    assert len(asked) == 6 * 4, "no question twice"
    middle = resets.index(1)
    train(playground, parts, middle, **reset)
    train(playground, parts, 6, "--resume", **reset)
    assert contents(parts).items() >= contents(straight).items()
    kept = [step for step, _ in best_checkpoints(straight)]
    assert kept[-1:] == [max(scores, key=lambda seen: (scores[seen], -seen))]


@pytest.mark.slow
def test_a_damaged_best_checkpoint_is_left_aside_and_lowered_rates_stay(
    playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(playground, run, 7, train__on_warning="lower_lr", collapse__most=1)
    rows = read_jsonl(run / "metrics.jsonl")
    assert rows[-1]["lr_lowered"] == 1
    reset = {"train__on_warning": "reset_to_best", "eval__every": 1, "eval__limit": 4}
    train(playground, run, 8, "--resume", **reset)
    for _, folder in best_checkpoints(run):
        largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
        content = largest.read_bytes()
        largest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    train(playground, run, 14, "--resume", **reset, collapse__most=9)
    warnings = read_json(run / "status.json")["warnings"]
    assert any("it is kept as damaged_step_" in line for line in warnings), "\n".join(warnings)
    later = read_jsonl(run / "metrics.jsonl")[7:]
    assert len(later) == 7
    assert {row["lr"] for row in later} == {rows[-1]["lr"]}, "what was lowered stays low"
    assert all(row["lr_lowered"] == 1 for row in later)


def updates_at(run: Path, step: int) -> int:
    """Optimiser updates behind the weights that were kept at a step."""
    names = ("checkpoints", "best_checkpoints")
    folders = [run / name / f"step_{step:06d}" for name in names]
    found = {read_json(folder / "state.json")["updates"] for folder in folders if folder.is_dir()}
    (updates,) = found
    return int(updates)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.on_warning=reset_to_best"], "set eval.data and eval.every"),
        (["train.on_warning=reset_to_best", "eval.every=2", "eval.data=['t.jsonl']",
          "checkpoint.best=none"], "checkpoint.best to em or f1"),
        (["train.on_warning=reset_to_best", "eval.every=2", "eval.data=['t.jsonl']",
          "rollout.one_step_off=true"], "switch rollout.one_step_off off"),
        (["kind=sft", "data.world=w", "train.on_warning=stop"], 'kind = "sft" has none'),
        (["kind=sft", "data.world=w", "train.on_warning=lower_lr"], "train.stop_when"),
    ],
)  # fmt: skip
def test_remedies_that_cannot_be_taken_are_refused(settings: list[str], message: str) -> None:
    base = ["data.train=['q.jsonl']", "model.path=m", "retriever.index=i"]
    with pytest.raises(InvalidInputError) as caught:
        refuse_problems(load_config([], [*base, *settings]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass
class _Watched:
    """What remedies see of a run that does not train."""

    config: Config
    learner: Any = field(default_factory=lambda: SimpleNamespace(core=SimpleNamespace()))
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


FALLEN = [HEALTHY, HEALTHY, *[HEALTHY | {"searches": 0.1}] * 2]


def test_another_factor_does_not_change_what_was_lowered_before() -> None:
    def lowered(factor: float, rows: list[dict[str, float]]) -> tuple[float, dict[str, float]]:
        words = ["collapse.window=2", "train.on_warning=lower_lr", f"collapse.lr_factor={factor}"]
        run: Any = _Watched(load_config([], words))
        counts = Remedies(run, rows).before_step(len(rows) + 1)
        return run.learner.core.rate_scale, counts

    scale, counts = lowered(0.1, FALLEN)
    assert (scale, counts) == (0.1, {"lr_lowered": 1, "lr_scale": 0.1})
    rows = [*FALLEN, HEALTHY | counts]
    assert lowered(0.5, rows)[0] == 0.1
    rows += [HEALTHY | counts, *[HEALTHY | counts | {"searches": 0.1}] * 2]
    assert lowered(0.5, rows) == (0.05, {"lr_lowered": 2, "lr_scale": 0.05})
    old = [*FALLEN, HEALTHY | {"lr_lowered": 2.0}]
    assert lowered(0.5, old)[0] == 0.25, "a run of an earlier version, with one factor"


def test_signs_after_the_last_remedy_are_only_said() -> None:
    words = ["collapse.window=2", "train.on_warning=lower_lr", "collapse.most=1"]
    run: Any = _Watched(load_config([], words))
    remedies, counts = Remedies(run, []), dict[str, float]()
    silent = HEALTHY | {"answered_share": 0.1}
    for step, row in enumerate([*FALLEN, *[HEALTHY] * 4, *[silent] * 2, HEALTHY], 1):
        counts = remedies.before_step(step)
        remedies.after_step(step, row | counts)
    assert counts["lr_lowered"] == 1
    found, lowered, later = run.warnings
    assert found.startswith("step 4: searches per rollout fell")
    assert lowered.startswith("step 5: the learning rate is 0.5 times")
    assert later.startswith("step 10: rollouts with an answer fell")
