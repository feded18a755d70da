"""Adapters: what is trained, what the engine and the exported model get, and that nothing depends
on the processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import Playground, run_tspo
from tests.training.core.learner_worker import VOCABULARY, make_config, make_learner, make_sequences
from tests.training.core.test_learner import STAGES, run_job
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.load_model import load_model
from tspo_cli.models.lora import add_lora
from tspo_cli.models.tiny import tiny_model
from tspo_cli.runs import read_jsonl
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.engine_weights import whole_weights
from tspo_cli.training.core.export import empty_model
from tspo_cli.training.launch.claim import claimed_run
from tspo_cli.training.planning.estimate import estimate_run

Tspo = Callable[..., Any]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("adapters")
    return folder, {processes: run_job("adapters", folder, processes) for processes in (1, 2)}


@pytest.mark.slow
def test_the_same_updates_for_every_stage_and_number_of_processes(
    jobs: tuple[Path, dict[int, dict[str, Any]]],
) -> None:
    expected = jobs[1][1]["0"]
    for processes in (1, 2):
        for stage in STAGES:
            got = jobs[1][processes][str(stage)]
            assert got["weights"] == pytest.approx(expected["weights"], rel=1e-6)
            for row, wanted in zip(got["rows"], expected["rows"], strict=True):
                assert row == pytest.approx(wanted, abs=1e-5), (processes, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_the_exported_model_is_the_base_with_its_adapters(
    jobs: tuple[Path, dict[int, dict[str, Any]]], tmp_path: Path, stage: int
) -> None:
    from peft import PeftModel

    config = make_config()
    base = tiny_model(VOCABULARY, config.model, 0).eval()
    ids = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    folder = jobs[0] / f"adapters_2_{stage}"
    with torch.no_grad():
        before = base(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(folder / "model")(ids).logits
        adapted = PeftModel.from_pretrained(base, str(folder / "adapter"))(ids).logits
    torch.testing.assert_close(adapted, merged, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged, before, atol=1e-4)


def test_adapters_alone_are_trained_and_start_as_nothing() -> None:
    init_distributed()
    learner = make_learner(make_config("lora.rank=4", "deepspeed.zero_stage=1"))
    plain = dict(tiny_model(VOCABULARY, learner.config.model, 0).named_parameters())
    weights = whole_weights(learner.core)
    assert {name: value.shape for name, value in weights.items()} == {
        name: parameter.shape for name, parameter in plain.items()
    }
    assert all(torch.equal(weights[name], parameter) for name, parameter in plain.items())
    before = {
        name: parameter.detach().clone() for name, parameter in learner.module.named_parameters()
    }
    learner.update_policy(make_sequences(0))
    changed = {
        name
        for name, parameter in learner.module.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert changed
    assert all(".lora_" in name for name in changed)
    scored = learner.logprobs(make_sequences(1))
    copy = empty_model(learner.core)
    copy.load_state_dict(whole_weights(learner.core), strict=False)
    for sequence, expected in zip(make_sequences(1), scored, strict=True):
        with torch.no_grad():
            logits = copy(torch.tensor([sequence.token_ids])).logits[0].log_softmax(-1)
        for place, weight in enumerate(sequence.weights):
            if weight:
                assert float(logits[place - 1, sequence.token_ids[place]]) == pytest.approx(
                    expected[place], abs=1e-5
                )


def test_a_resumed_run_is_the_run_that_was_never_stopped(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    lora = {
        "lora__rank": 4,
        "lora__targets": '["q_proj", "v_proj"]',
        "eval__every": 0,
        "optimizer__lr": 0.01,
    }
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    tspo(
        "train",
        "tiny/tspo",
        "--out",
        whole,
        *playground.settings(train__steps=4, checkpoint__every=2, **lora),
    )
    tspo("train", "tiny/tspo", "--out", halves, *playground.settings(train__steps=2, **lora))
    tspo(
        "train",
        "tiny/tspo",
        "--out",
        halves,
        "--resume",
        *playground.settings(train__steps=4, **lora),
    )
    rows = [read_jsonl(run / "metrics.jsonl") for run in (whole, halves)]
    assert rows[0] == rows[1]
    assert all(row["parity"] < 1e-4 and row["handover_parity"] < 1e-4 for row in rows[0])
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (whole / name).read_bytes() == (halves / name).read_bytes()
    assert json.loads((whole / "adapter/adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(playground.model)


@pytest.mark.parametrize("ahead", [False, True])
def test_in_bfloat16_the_engine_computes_with_adapters(
    playground: Playground, tspo: Tspo, tmp_path: Path, ahead: bool
) -> None:
    """With the learner's own, or with a copy of them where it samples ahead. Merged, updates as
    small as these would be rounded away.
    """
    options = {"lora__rank": 4, "model__dtype": "bfloat16", "optimizer__lr": 1e-4}
    options |= {"train__steps": 3, "eval__every": 3, "eval__at_start": "false"}
    options |= {"rollout__one_step_off": str(ahead).lower(), "optimizer__warmup": 0}
    tspo("train", "tiny/grpo", "--out", tmp_path / "run", *playground.settings(**options))
    run = tmp_path / "run"
    for row in read_jsonl(run / "metrics.jsonl"):
        assert ("handover_parity" in row) == ahead
        assert ahead or row["parity"] < 0.05
    notes = (run / "logs/attempt_1.log").read_text()
    assert f"{run / 'model'}: adapters are merged into its weights and rounded" in notes
    last, best = (
        (run / name / "adapter_model.safetensors") for name in ("adapter", "best/adapter")
    )
    assert last.read_bytes() == best.read_bytes(), "the last step was the only one evaluated"


@pytest.mark.parametrize("algorithm", ["ppo", "igpo"])
def test_other_algorithms_train_adapters_too(
    playground: Playground, tspo: Tspo, tmp_path: Path, algorithm: str
) -> None:
    run = tmp_path / algorithm
    settings = playground.settings(
        train__steps=2, lora__rank=2, eval__every=0, eval__at_start="false"
    )
    tspo("train", f"tiny/{algorithm}", "--out", run, *settings)
    assert len(read_jsonl(run / "metrics.jsonl")) == 2
    (run / "adapter" / "notes.md").write_text("mine")
    with (
        pytest.raises(InvalidInputError, match=r"\(adapter/notes.md\)"),
        claimed_run(run, resume=False, overwrite=True),
    ):
        pass
    (run / "adapter" / "notes.md").unlink()
    with claimed_run(run, resume=False, overwrite=True):
        assert not (run / "adapter").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [("lora.dropout=0.1", "lora.dropout"), ('lora.targets=["nothing"]', "lora.targets")],
)
def test_what_cannot_be_trained_is_refused(
    playground: Playground, tmp_path: Path, setting: str, message: str
) -> None:
    more = ["--set", "lora.rank=4", "--set", setting]
    done = run_tspo(
        "train", "tiny/tspo", "--out", tmp_path / "run", *playground.settings(train__steps=1), *more
    )
    assert done.code == 3
    assert message in done.err.splitlines()[-1]


def test_every_linear_layer_but_the_output_gets_an_adapter() -> None:
    config = make_config("lora.rank=4")
    model = tiny_model(VOCABULARY, config.model, 0)
    add_lora(model, config.lora, 0)
    trained = {
        name.split(".lora_")[0]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert {name.rpartition(".")[2] for name in trained} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def test_the_plan_counts_the_adapters(playground: Playground) -> None:
    for targets in ("all-linear", "q_proj"):
        config = load_config(
            ["tiny/tspo"],
            [f"model.path={playground.model}", "lora.rank=4", f'lora.targets=["{targets}"]'],
        )
        model = load_model(playground.model)
        add_lora(model, config.lora, 0)
        trained = sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        )
        assert estimate_run(config, 0)["trained_parameters"] == trained
