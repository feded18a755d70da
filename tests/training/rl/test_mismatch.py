"""Engine and learner that differ by rounding: what is corrected, what is measured, what stops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.config.old_records import current_keys
from tspo_cli.rollout.engines.read_back import different_weight
from tspo_cli.runs import read_jsonl
from tspo_cli.training.announce import loop_options
from tspo_cli.training.core.handover import parity_limit, probe_limit
from tspo_cli.training.core.losses import (
    Correction,
    correction_of_rounding,
    correction_of_stale,
)

Tspo = Callable[..., Finished]
weights = st.floats(1e-6, 1e6)
caps = st.floats(1, 100)


@given(weights, caps)
def test_a_truncated_weight_is_the_weight_up_to_the_cap(weight: float, cap: float) -> None:
    factor = Correction("truncate", "token", cap).factor(weight)
    assert factor == min(weight, cap)


@given(weights, caps)
def test_a_mask_keeps_a_weight_or_leaves_the_token_out(weight: float, cap: float) -> None:
    correction = Correction("mask", "token", cap)
    assert correction.factor(weight) in (0, weight)
    assert (correction.factor(weight) == 0) == (abs(math.log(weight)) > math.log(cap) + 1e-12) or (
        abs(abs(math.log(weight)) - math.log(cap)) < 1e-9
    )


@given(weights, caps, st.sampled_from(["none", "truncate", "mask"]))
def test_no_factor_is_above_the_cap_and_none_changes_nothing(
    weight: float, cap: float, kind: Any
) -> None:
    factor = Correction(kind, "token", cap).factor(weight)
    assert factor == 1 if kind == "none" else 0 <= factor <= cap


def corrected(bfloat16: bool, **settings: object) -> str:
    """Kind and ratio of the correction, or "engine" where the ratio compares with the engine."""
    options = {key.replace("__", "."): value for key, value in settings.items()}
    base = {"data.train": '["x.jsonl"]', "model.path": "m", "retriever.index": "i"}
    lines = [f"{key}={value}" for key, value in (base | options).items()]
    found = correction_of_rounding(load_config(["tiny/grpo"], lines), bfloat16=bfloat16)
    return "engine" if found is None else f"{found.kind} {found.ratio}"


@pytest.mark.parametrize(
    ("bfloat16", "settings", "expected"),
    [
        (False, {}, "engine"),
        (True, {}, "truncate token"),
        (False, {"rollout__engine": "vllm"}, "truncate token"),
        (True, {"loss__mismatch": "none"}, "engine"),
        (True, {"loss__mismatch": "none", "loss__ratio": "sequence"}, "none token"),
        (True, {"loss__mismatch": "none", "train__updates_per_step": 2}, "none token"),
        (False, {"loss__ratio": "sequence", "train__updates_per_step": 2}, "engine"),
        (False, {"loss__mismatch": "mask", "loss__mismatch_ratio": "turn"}, "mask turn"),
        (False, {"loss__old_logprobs": "learner"}, "none token"),
        (True, {"loss__old_logprobs": "engine"}, "engine"),
        (True, {"loss__old_logprobs": "engine", "loss__ratio": "sequence"}, "engine"),
    ],
)
def test_what_is_corrected(bfloat16: bool, settings: dict[str, object], expected: str) -> None:
    assert corrected(bfloat16, **settings) == expected


def test_weights_beside_the_engines_own_log_probs_are_refused(
    playground: Playground, tmp_path: Path
) -> None:
    options = playground.settings(loss__old_logprobs="engine", loss__mismatch="mask")
    done = run_tspo("train", "tiny/grpo", "--out", tmp_path / "run", *options)
    assert done.code == 3
    assert "loss.mismatch: importance weights" in done.err
    assert not (tmp_path / "run").exists()


def test_a_mask_needs_a_cap_from_one_up(playground: Playground, tmp_path: Path) -> None:
    options = playground.settings(loss__mismatch="mask", loss__importance_cap=0.5)
    done = run_tspo("train", "tiny/grpo", "--out", tmp_path / "run", *options)
    assert done.code == 3
    assert "loss.importance_cap: 0.5 would mask every token" in done.err


@pytest.mark.parametrize(
    ("settings", "float32", "bfloat16"),
    [([], 0.05, 0.5), (["train.parity_limit=0.2"], 0.2, 0.2)],
)
def test_float32_has_the_closer_limit(settings: list[str], float32: float, bfloat16: float) -> None:
    config = load_config(["tiny/grpo"], settings)
    assert parity_limit(config, bfloat16=False) == float32
    assert parity_limit(config, bfloat16=True) == bfloat16


@pytest.mark.parametrize(
    ("settings", "float32", "bfloat16"),
    [
        ([], 1e-3, 0.5),
        (["train.parity_limit=0.05"], 1e-3, 0.05),
        (["train.parity_limit=1e-5"], 1e-5, 1e-5),
        (["train.parity_limit=0.2"], 0.2, 0.2),
    ],
)
def test_a_hand_over_takes_another_limit_too(
    settings: list[str], float32: float, bfloat16: float
) -> None:
    """Otherwise a run whose engine computes float32 in another way could never go on."""
    config = load_config(["tiny/grpo"], settings)
    assert probe_limit(config, bfloat16=False) == float32
    assert probe_limit(config, bfloat16=True) == bfloat16


def test_a_record_from_before_these_keys_means_what_it_meant() -> None:
    record = {"loss": {"ratio": "token", "importance_cap": 2.0}}
    assert current_keys(record)["loss"] == {
        "ratio": "token",
        "importance_cap": 2.0,
        "old_logprobs": "engine",
        "mismatch": "none",
    }


def rows(run: Path) -> list[Mapping[str, Any]]:
    return read_jsonl(run / "metrics.jsonl")


def test_bfloat16_is_corrected_and_sequence_ratios_do_not_clip(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    """On policy with a rate of almost 0, only rounding could move a ratio out of GSPO's range."""
    options = playground.settings(
        model__dtype="bfloat16",
        credit__algorithm="gspo",
        credit__outcome="em_format",
        optimizer__lr=1e-9,
        train__steps=2,
        eval__every=0,
        eval__data="[]",
        loss__ratio="sequence",
        loss__clip_low=3e-4,
        loss__clip_high=4e-4,
    )
    tspo("train", "tiny/grpo", "--out", tmp_path / "run", *options)
    for row in rows(tmp_path / "run"):
        assert row["parity"] > 1e-4, "bfloat16 rounds"
        assert row["parity"] <= row["parity_p99"]
        assert row["mismatch_kl"] >= 0
        assert row["clip_fraction"] <= 0.01
        assert row["ratio_max"] == pytest.approx(1, abs=1e-3)
        assert 0 < row["effective_sample_share"] <= 1 + 1e-9
        assert row["importance_cut"] < 0.05


def test_in_float32_the_correction_changes_nothing(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    options = playground.settings(
        credit__outcome="em_format", train__steps=1, eval__every=0, eval__data="[]"
    )
    asked = {"engine": "none", "learner": "mask"}
    for name, kind in asked.items():
        more = ["--set", f"loss.old_logprobs={name}", "--set", f"loss.mismatch={kind}"]
        tspo("train", "tiny/grpo", "--out", tmp_path / name, *options, *more)
    exact, learner = (rows(tmp_path / name)[0] for name in asked)
    assert exact["parity"] == pytest.approx(learner["parity"], abs=1e-5)
    assert "importance_mean" not in exact
    assert learner["importance_mean"] == pytest.approx(1, abs=1e-4)
    assert learner["importance_cut"] == 0
    assert learner["loss"] == pytest.approx(exact["loss"], abs=1e-5)


def test_a_gap_that_is_too_large_stops_and_goes_on_with_another_limit(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = playground.settings(
        model__dtype="bfloat16", credit__outcome="em_format", eval__every=0, eval__data="[]"
    )
    command = ["train", "--json", "tiny/grpo", "--out", run, *options, "--set"]
    tspo(*command, "train.steps=1")
    more = ["train.steps=2", "--resume", "--set"]
    stopped = run_tspo(*command, *more, "train.parity_limit=1e-7")
    assert stopped.code == 1
    assert "step 2: log-probs of engine and learner differ by" in stopped.err
    assert "tokens, more than train.parity_limit 1e-07" in stopped.err
    assert json.loads(tspo(*command, *more, "train.parity_limit=0.5").out)["step"] == 2


def test_weights_are_compared_bit_for_bit_where_they_can_be_read() -> None:
    held = {"a": torch.ones(5), "packed": torch.zeros(4, 2), "b": torch.arange(4.0)}
    given_weights = {"a": torch.ones(3), "packed": torch.ones(2, 4), "b": torch.arange(4.0)}
    given_weights |= {"elsewhere": torch.ones(2)}
    assert different_weight(held, given_weights) is None
    given_weights["b"] = given_weights["b"].clone()
    given_weights["b"][2] += 1e-6
    assert different_weight(held, given_weights) == "b"
    half = {name: value.bfloat16() for name, value in held.items()}
    assert different_weight(half, given_weights) is None, "the same after rounding"


@pytest.mark.parametrize(
    ("mismatch", "said"),
    [
        ("none", "for each sequence, cut at 3"),
        ("mask", "for each sequence; tokens with a weight above 3 or below 1/3 are left out"),
    ],
)
def test_what_is_said_of_stale_rollouts_is_what_happens(mismatch: str, said: str) -> None:
    settings = ["loss.ratio=sequence", "loss.importance_cap=3", "rollout.one_step_off=true"]
    config = load_config(["tiny/grpo"], [*settings, f"loss.mismatch={mismatch}"])
    (line,) = [line for line in loop_options(config) if line.startswith("one step off")]
    assert line.endswith(said)
    assert correction_of_stale(config).factor(10.0) == {"none": 3.0, "mask": 0.0}[mismatch]
