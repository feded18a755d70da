"""Rules that span several keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError
from tspo_cli.training.early_stop import RL_METRICS, SFT_METRICS, parse_rules
from tspo_cli.training.launch.nodes.launch_script import launch_script
from tspo_cli.training.problems import refuse_problems

RL = ["data.train=['q.jsonl']", "model.path=m", "retriever.index=i"]
SFT = ["kind=sft", "data.world=w", "retriever.index=i"]

SERVED = [*RL, "rollout.engine=vllm", "vllm.url=['http://127.0.0.1:8100']"]


@pytest.mark.parametrize(
    "settings",
    [
        RL,
        [*RL, "retriever.index=", "retriever.url=['http://127.0.0.1:8000']"],
        [*RL, "retriever.index=", "rollout.max_searches=0"],
        [*RL, "eval.every=5", "eval.data=['t.jsonl']"],
        [*RL, "deepspeed.offload_optimizer=true", "deepspeed.zero_stage=1"],
        [*RL, "rollout.engine=vllm", "rollout.one_step_off=true"],
        [
            *RL,
            "rollout.engine=vllm",
            "vllm.tensor_parallel=2",
            "vllm.url=['http://127.0.0.1:8100']",
        ],
        [*SERVED, "vllm.transfer=nccl"],
        [*SERVED, "vllm.transfer=nccl", "lora.rank=4", "lora.handover=merged"],
        [*RL, "rollout.engine=vllm", "launch.engines=1", "vllm.transfer=nccl"],
        [*SERVED, "vllm.transfer=files", "lora.rank=4"],
        SFT,
        ["kind=sft", "data.demonstrations=['d.jsonl']", "model.path=m"],
        [*SFT, "eval.data=['t.jsonl']"],
    ],
)
def test_complete(settings: list[str]) -> None:
    refuse_problems(load_config([], settings))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ([], "data.train"),
        ([*RL, "data.train=[]"], "data.train"),
        ([*RL, "model.path="], "model.path"),
        ([*RL, "retriever.index="], "retriever.index"),
        ([*RL, "rollout.group_size=1"], "rollout.group_size"),
        ([*RL, "rollout.temperature=0"], "rollout.temperature"),
        ([*RL, "credit.algorithm=gropo"], "did you mean grpo"),
        ([*RL, "credit.algorithm=gigpo", "rollout.group_size=1"], "rollout.group_size"),
        ([*RL, "train.stop_when=['nonsense']"], "train.stop_when"),
        ([*RL, "train.stop_when=['rewrad < 0.1 for 2']"], "metric rewrad; did you mean reward?"),
        ([*RL, "train.stop_when=['xyz > 1 for 2']"], "metric xyz; it has agent_loss, "),
        ([*RL, "train.stop_when=['eval_loss > 9 for 2']"], 'kind = "rl" has a metric eval_loss'),
        ([*SFT, "train.stop_when=['reward < 0.1 for 2']"], 'kind = "sft" has a metric reward'),
        ([*RL, "rollout.prompt=chatml"], "rollout.prompt"),
        ([*RL, "model.max_context=300"], "model.max_context"),
        ([*RL, "train.updates_per_step=41"], "train.updates_per_step"),
        ([*RL, "eval.every=5"], "eval.every"),
        ([*RL, "deepspeed.offload_optimizer=true"], "deepspeed.zero_stage"),
        (
            [*RL, "rollout.one_step_off=true", "rollout.dynamic_sampling=true"],
            "rollout.one_step_off",
        ),
        ([*RL, "rollout.one_step_off=true", "rollout.engine=vllm", "vllm.sleep=1"], "vllm.sleep"),
        ([*RL, "rollout.engine=vllm", "vllm.tensor_parallel=2"], "tspo engine --tensor-parallel"),
        (
            [*RL, "rollout.engine=vllm", "vllm.sleep=1", "vllm.url=['http://127.0.0.1:8100']"],
            "vllm.sleep",
        ),
        ([*RL, "rollout.engine=vllm", "rollout.top_k=5"], "rollout.engine"),
        ([*RL, "rollout.engine=vllm", "vllm.transfer=nccl"], "name them in vllm.url"),
        ([*RL, "vllm.transfer=nccl"], "vllm.transfer"),
        ([*SERVED, "vllm.transfer=nccl", "lora.rank=4"], 'lora.handover to "merged"'),
        (
            [*SERVED, "vllm.transfer=nccl", "lora.rank=4", "lora.handover=adapters"],
            "adapters go as files",
        ),
        (["kind=sft"], "data.demonstrations"),
        ([*SFT, "model.hidden_size=100"], "model.hidden_size"),
        ([*SFT, "retriever.index="], "retriever.index"),
        ([*SFT, "retriever.index=", "eval.data=['t.jsonl']"], "retriever.index"),
    ],
)
def test_incomplete_names_the_key_in_one_line(settings: list[str], key: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        refuse_problems(load_config([], settings))
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


AHEAD = [*RL, "rollout.engine=vllm", "rollout.one_step_off=true"]
DEEP = [*RL, "rollout.engine=vllm", "vllm.sleep=2", "lora.rank=4"]


@pytest.mark.parametrize(
    ("settings", "key"), [(AHEAD, "rollout.one_step_off"), (DEEP, "vllm.sleep")]
)
def test_what_only_a_gpu_refuses(settings: list[str], key: str) -> None:
    """`tspo plan --gpus` and --print-launch know that the run has GPUs: they refuse what the job
    would refuse after its start.
    """
    refuse_problems(load_config([], settings))
    with pytest.raises(InvalidInputError, match=key):
        refuse_problems(load_config([], settings), gpu=True)
    with pytest.raises(InvalidInputError, match=key):
        launch_script("slurm", ["any/grpo"], settings, None, resume=False, nodes=1, gpus=8)
    refuse_problems(load_config([], [*settings, "launch.engines=1"]), gpu=True)


def test_merged_adapters_need_no_frozen_weights() -> None:
    refuse_problems(load_config([], [*DEEP, "lora.handover=merged"]), gpu=True)
    refuse_problems(load_config([], [*DEEP, "model.dtype=float32"]), gpu=True)
    with pytest.raises(InvalidInputError, match=r"vllm.sleep"):
        refuse_problems(load_config([], [*DEEP, "model.dtype=bfloat16"]))


def test_every_metric_of_the_documents_can_end_a_run_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    training = page.split("\n## Training\n")[1].split("\n## Timings\n")[0]
    reinforced, supervised = training.split("\n### SFT\n")
    cells = [line.split("|")[1] for line in reinforced.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([a-z]\w*(?:/\w+)?)`", cell)}
    parse_rules([f"{name} > 0 for 1" for name in named], "rl")
    others = {"agent_loss", *(f"groups/first_occurrence_{turn}" for turn in (2, 3, 4))}
    assert named - {"failed_share/searches_1"} == RL_METRICS - others
    assert set(re.findall(r"`(\w+)`", supervised)) >= SFT_METRICS
