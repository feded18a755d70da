"""The learner gives the same result for every number of processes and ZeRO stage, and resumes
exactly.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import TCPStore
from transformers import AutoModelForCausalLM

from tests.command_server import can_fork
from tests.conftest import run_forked
from tests.training.core.learner_worker import VOCABULARY, make_config, make_learner, make_sequences
from tspo_cli.digests import json_digest
from tspo_cli.training.core.checkpoints.checkpoint import (
    check_checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from tspo_cli.training.core.checkpoints.checkpoint_files import SavedTensors, part_names
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.sequences import TrainSequence

WORKER = Path(__file__).with_name("learner_worker.py")
STAGES = range(4)
STATE = "state.safetensors"


def run_job(job: str, folder: Path, processes: int) -> dict[str, Any]:
    """Run a job of the worker in its own processes and read what it found."""
    if can_fork():
        place = f"tests.training.core.learner_worker:main:{job}:{folder}"
        codes, out, errors = run_forked(place, ranks=processes, timeout=240)
    else:
        codes, out, errors = run_new_processes(job, folder, processes)
    assert codes == [0] * processes, errors[-3000:]
    assert out == "", "nothing but results belongs on stdout"
    return json.loads((folder / f"{job}_{processes}.json").read_text())


def run_new_processes(job: str, folder: Path, processes: int) -> tuple[list[int], str, str]:
    """Where processes cannot fork: exit codes, output and messages of new ones."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = os.environ | {
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
    }
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), job, str(folder)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [worker.communicate(timeout=240) for worker in workers]
    out, errors = ("".join(part) for part in zip(*outputs, strict=True))
    return [worker.returncode for worker in workers], out, errors


@pytest.fixture(scope="module")
def stage_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("stages")
    return folder, {processes: run_job("stages", folder, processes) for processes in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_same_losses_for_every_stage_and_number_of_processes(
    stage_runs: tuple[Path, dict[int, dict[str, Any]]], aggregation: str
) -> None:
    expected = stage_runs[1][1][f"0 {aggregation}"]
    for processes in (1, 2):
        for stage in STAGES:
            found = stage_runs[1][processes][f"{stage} {aggregation}"]
            for step, (row, wanted) in enumerate(zip(found["rows"], expected["rows"], strict=True)):
                assert row.keys() == wanted.keys()
                for key, value in wanted.items():
                    where = f"{key} of update {step}, stage {stage}, {processes} processes"
                    assert row[key] == pytest.approx(
                        value, abs=1e-5, rel=2e-4 if key == "grad_norm" else 1e-5
                    ), where
            assert found["weights"] == pytest.approx(expected["weights"], rel=1e-5)
    assert [row["loss"] for row in expected["rows"]] != [0.0] * 4


@pytest.mark.slow
def test_exports_of_every_stage_load_and_agree(
    stage_runs: tuple[Path, dict[int, dict[str, Any]]],
) -> None:
    folder = stage_runs[0]
    wanted = AutoModelForCausalLM.from_pretrained(folder / "model_1_0").state_dict()
    for processes in (1, 2):
        for stage in STAGES:
            model = AutoModelForCausalLM.from_pretrained(folder / f"model_{processes}_{stage}")
            assert model.lm_head.weight is model.model.embed_tokens.weight
            for name, value in model.state_dict().items():
                torch.testing.assert_close(value, wanted[name], atol=2e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_learner_equals_one_that_never_stopped(tmp_path: Path, processes: int) -> None:
    straight = run_job("straight", tmp_path, processes)
    run_job("first_half", tmp_path, processes)
    second = run_job("second_half", tmp_path, processes)
    for stage, found in second.items():
        assert found["rows"] == straight[stage]["rows"][3:], f"stage {stage}"
        assert found["weights"] == straight[stage]["weights"], f"stage {stage}"
    for stage in (0, 2, 3):
        check_parts(tmp_path / f"half_{stage}", processes)
    if processes > 1:
        check_another_number_of_processes(tmp_path / "half_2", tmp_path / "again")
        check_failed_part(tmp_path)
        check_damage(tmp_path)


def check_parts(folder: Path, processes: int) -> None:
    """Every process wrote its part, and all together are the state of a whole gather."""
    check_checkpoint(folder)
    files = sorted(folder.glob("*.safetensors"))
    assert [path.name for path in files] == part_names("state", processes)
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) < 1.2 * min(sizes)
    index = json.loads((folder / "state.json").read_text())
    assert index.get("parts", 1) == processes
    state = SavedTensors(files, index["shapes"]["state"] if processes > 1 else None)
    whole = load_file(folder.with_name(f"whole_{folder.name}.safetensors"))
    assert set(state) == set(whole)
    for name, value in whole.items():
        assert torch.equal(state[name], value), name
        assert state.shape(name) == tuple(value.shape)
    state.close()


def check_another_number_of_processes(folder: Path, again: Path) -> None:
    """One process reads the parts of two, at other ZeRO stages, and writes the whole."""
    whole = load_file(folder.with_name(f"whole_{folder.name}.safetensors"))
    for stage in (0, 3):
        learner = make_learner(make_config(f"deepspeed.zero_stage={stage}"), seed=1)
        assert load_checkpoint(learner.core, folder) == {"step": 3}
        save_checkpoint(learner.core, again, {"step": 3})
        assert [path.name for path in sorted(again.iterdir())] == ["state.json", STATE]
        saved = load_file(again / STATE)
        assert set(saved) == set(whole)
        assert all(torch.equal(saved[name], value) for name, value in whole.items()), stage


def check_failed_part(folder: Path) -> None:
    """Both processes know, and the checkpoint of before is whole."""
    first, second = json.loads((folder / "first_half_2.json").read_text())["failed"]
    assert second.startswith("OSError")
    assert "state.1-of-2" in second
    assert first.startswith("TspoError: process 1 could not write its part of a checkpoint: ")
    assert "no space left on device" in first
    assert json.loads((folder / "half_0/state.json").read_text())["extra"] == {"step": 3}
    assert not list(folder.glob(".*.tmp"))


def check_damage(folder: Path) -> None:
    """The damaged part is named, and the checkpoint before it is taken."""
    run = folder / "run"
    whole, part = run / "checkpoints/step_000003", "state.1-of-2.safetensors"
    shutil.copytree(folder / "half_2", whole)
    for number, harm in enumerate(DAMAGE.values(), 4):
        harmed = run / f"checkpoints/step_{number:06}"
        shutil.copytree(whole, harmed)
        index = json.loads((harmed / "state.json").read_text()) | {"extra": {"step": number}}
        del index["sha256"]
        harm(harmed / part, index)
        digest = json_digest(index)
        (harmed / "state.json").write_text(json.dumps({**index, "sha256": digest}))
    found = find_checkpoint(run)
    assert found.folder == whole
    assert len(found.damaged) == len(DAMAGE)
    for kind, said in zip(reversed(DAMAGE), found.damaged.values(), strict=True):
        wanted = "damaged (it does not describe a checkpoint)" if kind in UNREADABLE else part
        if kind == "numbers that are missing":
            wanted = " numbers"
        assert wanted in said, kind


def _flip(path: Path, index: dict[str, Any]) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)


def _cut(path: Path, index: dict[str, Any]) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _remove(path: Path, index: dict[str, Any]) -> None:
    path.unlink()


def _leave_out_numbers(path: Path, index: dict[str, Any]) -> None:
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("param."))
    save_file(tensors | {name: tensors[name][:-1].clone()}, path)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    index["files"][path.name] = {"bytes": len(content), "sha256": digest}


def _no_parts(path: Path, index: dict[str, Any]) -> None:
    index["parts"] = 0


def _no_shapes(path: Path, index: dict[str, Any]) -> None:
    del index["shapes"]


def _shapes_of_text(path: Path, index: dict[str, Any]) -> None:
    index["shapes"]["state"] = dict.fromkeys(index["shapes"]["state"], "3")


DAMAGE = {
    "a bit": _flip,
    "an end that is missing": _cut,
    "a part that is missing": _remove,
    "numbers that are missing": _leave_out_numbers,
    "no parts": _no_parts,
    "no shapes": _no_shapes,
    "shapes of text": _shapes_of_text,
}
UNREADABLE = ("no parts", "no shapes", "shapes of text")


@pytest.fixture(scope="module", autouse=True)
def process_group() -> None:
    init_distributed()


def test_policy_gradient_against_autograd_by_hand() -> None:
    """One update equals a step of torch's own AdamW on the loss written out token by token."""
    config = make_config("loss.kl=0", "loss.entropy=0.01")
    learner = make_learner(config)
    sequences = make_sequences(0)
    twin = make_learner(config).module
    optimizer = torch.optim.AdamW(
        twin.parameters(), lr=0.001, betas=(0.9, 0.95), eps=1e-4, weight_decay=0.0
    )
    total = torch.zeros(())
    count = sum(sum(sequence.weights) for sequence in sequences)
    for sequence in sequences:
        logits = twin(torch.tensor([sequence.token_ids])).logits[0].double()
        logprobs = logits.log_softmax(-1)
        for place in range(1, len(sequence.token_ids)):
            if sequence.weights[place]:
                row = logprobs[place - 1]
                ratio = (row[sequence.token_ids[place]] - sequence.old_logprobs[place]).exp()
                advantage = sequence.advantages[place]
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
                total = total - (surrogate + 0.01 * -(row.exp() * row).sum()) / count
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    optimizer.step()
    metrics = learner.update_policy(sequences)
    assert metrics["loss"] == pytest.approx(total.item(), abs=1e-5)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    for (name, ours), theirs in zip(
        learner.module.named_parameters(), twin.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3, msg=name)


def test_micro_batches_do_not_change_an_update() -> None:
    rows = []
    for budget in (32, 10_000):
        learner = make_learner(make_config(f"train.tokens_per_micro_batch={budget}"))
        rows.append([learner.update_policy(make_sequences(seed)) for seed in range(2)])
    for small, large in zip(*rows, strict=True):
        assert small == pytest.approx(large, abs=1e-5)


def test_weight_zero_tokens_are_not_trained() -> None:
    config = make_config()
    sequence = make_sequences(0, 1)[0]
    first = make_learner(config).update_policy([sequence])
    masked = [place for place, weight in enumerate(sequence.weights) if not weight]
    advantages = [
        9.0 if place in masked else value for place, value in enumerate(sequence.advantages)
    ]
    again = make_learner(config).update_policy(
        [TrainSequence(sequence.token_ids, sequence.weights, advantages, sequence.old_logprobs)]
    )
    assert first == again


def test_nothing_to_learn_leaves_the_policy_alone() -> None:
    learner = make_learner(make_config("loss.kl=0"))
    before = [value.clone() for value in learner.module.parameters()]
    metrics = learner.update_policy([])
    assert metrics["loss"] == 0
    assert metrics["grad_norm"] == 0
    for old, new in zip(before, learner.module.parameters(), strict=True):
        assert torch.equal(old, new)


def test_logprobs_are_those_of_the_model() -> None:
    learner = make_learner(make_config("rollout.temperature=0.7"))
    sequences = make_sequences(5)
    for sequence, found in zip(sequences, learner.logprobs(sequences), strict=True):
        logits = learner.module(torch.tensor([sequence.token_ids])).logits[0].log_softmax(-1)
        for place, weight in enumerate(sequence.weights):
            wanted = logits[place - 1, sequence.token_ids[place]].item() if weight else 0.0
            assert found[place] == pytest.approx(wanted, abs=1e-5)
    reference = learner.reference_logprobs(sequences)
    assert reference == learner.logprobs(sequences)
    learner.update_policy(sequences)
    assert reference == learner.reference_logprobs(sequences) != learner.logprobs(sequences)


def test_columns_left_out_are_zeros() -> None:
    sequence = TrainSequence([1, 2], [0.0, 1.0], returns=[0.0, 0.5])
    assert sequence.returns == [0.0, 0.5]
    assert sequence.advantages == sequence.old_logprobs == sequence.old_values == [0.0, 0.0]


def test_sequences_must_be_well_formed() -> None:
    with pytest.raises(ValueError, match="same length"):
        TrainSequence([1, 2], [0.0], [0.0, 0.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="first token"):
        TrainSequence([1, 2], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0])
    assert max(token for sequence in make_sequences(0) for token in sequence.token_ids) < VOCABULARY
