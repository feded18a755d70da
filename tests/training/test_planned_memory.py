"""`tspo plan` counts what a GPU holds in each phase, and names the settings that make a run fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from typer.testing import CliRunner

from tspo_cli.commands.app import app
from tspo_cli.config.context import sequences_at_once
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import rule_problems
from tspo_cli.errors import GateError, InvalidInputError
from tspo_cli.models import dtype as formats
from tspo_cli.models.checks.model_size import token_parameters
from tspo_cli.models.dtype import product_dtype
from tspo_cli.training.planning.engine_memory import engine_weights, kv_cache, kv_cache_bytes
from tspo_cli.training.planning.estimate import estimate_run
from tspo_cli.training.planning.fitting import fitting_settings
from tspo_cli.training.planning.memory import PlannedRun
from tspo_cli.training.planning.model_shape import model_shape
from tspo_cli.training.planning.phases import (
    CARD_SHARE,
    micro_batch_tokens,
    process_phases,
)
from tspo_cli.training.planning.step_time import cpu_seconds, learner_operations

GIB = 2**30


def plan(recipe: str, *settings: str, gpus: int = 1) -> dict[str, Any]:
    return estimate_run(load_config([recipe], list(settings)), gpus)


def test_sleep_takes_the_engine_out_of_the_update() -> None:
    awake = plan("qwen2.5-3b/tspo-one-gpu", "vllm.sleep=0")
    asleep = plan("qwen2.5-3b/tspo-one-gpu", "vllm.sleep=1")
    saved = awake["phases_gib"]["update"] - asleep["phases_gib"]["update"]
    weights = asleep["parameters"] * 2 / GIB
    cache = load_config(["qwen2.5-3b/tspo-one-gpu"]).vllm.kv_cache_gib
    assert saved == pytest.approx(weights + cache)
    assert asleep["phases_gib"]["rollouts"] == awake["phases_gib"]["rollouts"]
    assert asleep["host_memory_per_process_gib"]["engine_weights"] == pytest.approx(weights)
    deeper = plan("qwen2.5-3b/tspo-one-gpu", "vllm.sleep=2")
    assert "engine_weights" not in deeper["host_memory_per_process_gib"]


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ([], 40),
        (["rollout.batch_size=16"], 16),
        (["rollout.group_size=2", "eval.data=['d']", "eval.limit=24"], 24),
        (["rollout.group_size=2", "eval.data=['d']"], 64),
        (["rollout.group_size=2", "tree.branching='random'"], 64),
    ],
)
def test_the_engine_holds_no_more_sequences_than_there_are(settings: list[str], held: int) -> None:
    sizes = ["rollout.batch_size=64", "rollout.questions_per_step=8", "rollout.group_size=5"]
    config = load_config(["any/tspo"], [*sizes, *settings])
    assert sequences_at_once(config) == held
    run = PlannedRun(config, model_shape(load_config(["qwen2.5-3b/tspo"])), 0, 1000)
    one = kv_cache_bytes(run.shape, 1000, 1, run.bytes_per_number)
    assert kv_cache(run) * GIB == pytest.approx(held * one)


def test_what_vllm_and_deepspeed_add_is_counted() -> None:
    sizes = [
        plan("qwen2.5-3b/grpo", f"vllm.eager={eager}", gpus=8)["phases_gib"]["rollouts"]
        for eager in ("true", "false")
    ]
    assert sizes[1] - sizes[0] == pytest.approx(1.0)
    servers = plan("qwen2.5-3b/grpo", 'vllm.url=["http://127.0.0.1:8100"]', gpus=8)
    assert set(servers["phases_gib"]) == {"update"}
    launched = plan("qwen2.5-3b/grpo", "launch.engines=1", gpus=8)
    assert launched["phases_gib"] == servers["phases_gib"], "as servers that are there already"
    assert launched["host_memory_per_process_gib"] == servers["host_memory_per_process_gib"]
    config = load_config(["qwen2.5-7b/ppo"], ["deepspeed.zero_stage=3"])
    run = PlannedRun(config, model_shape(config), 8, 1000)
    gathered = process_phases(run).parts["hand_over"]["gathered"]
    assert gathered * GIB == pytest.approx(2 * run.parameters)
    assert process_phases(run).parts["update"]["exchange"] > 0
    memory = plan("qwen2.5-3b/tspo", gpus=8)["memory_per_process_gib"]
    assert memory["total"] == pytest.approx(sum(memory.values()) - memory["total"])


def test_a_float32_head_is_copied() -> None:
    shape = model_shape(load_config(["qwen2.5-3b/tspo-one-gpu"]))
    copy = 4 * shape.hidden * shape.vocabulary / GIB
    offloaded = "deepspeed.offload_optimizer=true"  # so that the update needs it most
    for dtype, copies in (("bfloat16", 1), ("float32", 0)):
        settings = [offloaded, f"model.dtype={dtype}"]
        plain, exact = (
            plan("qwen2.5-3b/tspo-one-gpu", *settings, f"model.float32_head={head}")["phases_gib"]
            for head in ("false", "true")
        )
        more = {phase: exact[phase] - plain[phase] for phase in plain}
        assert more["rollouts"] == pytest.approx(copies * copy, rel=0.06)
        assert more["update"] == pytest.approx(2 * copies * copy, rel=0.06)


def test_what_is_not_held_is_not_counted() -> None:
    """Adapters are their own reference, and a reference in CPU memory is not on the GPU."""
    config = load_config(["qwen2.5-3b/grpo"], ["deepspeed.offload_reference=true"])
    phases = process_phases(PlannedRun(config, model_shape(config), 1, 1000))
    assert "reference" not in phases.parts["update"]
    assert phases.host["reference"] * GIB == pytest.approx(2 * model_shape(config).parameters())
    config = load_config(["qwen2.5-3b/grpo"], ["lora.rank=8"])
    phases = process_phases(PlannedRun(config, model_shape(config), 1, 1000))
    assert "reference" not in {*phases.parts["update"], *phases.host}


@pytest.mark.parametrize(
    ("recipe", "gpus", "gib"),
    [
        ("qwen2.5-7b/grpo", 1, 80),
        ("qwen2.5-7b/ppo", 2, 80),
        ("qwen2.5-3b/grpo", 1, 80),
        ("qwen2.5-3b/tspo", 1, 40),
    ],
)
def test_the_settings_that_are_named_make_the_run_fit(recipe: str, gpus: int, gib: float) -> None:
    config = load_config([recipe], ["vllm.sleep=0"])
    context = estimate_run(config, gpus)["context_tokens"]
    settings = fitting_settings(config, gpus, gib * CARD_SHARE, context)
    assert settings
    changed = load_config([recipe], ["vllm.sleep=0", *settings])
    assert list(rule_problems(changed)) == []
    total = estimate_run(changed, gpus)["memory_per_process_gib"]["total"]
    assert total <= gib * CARD_SHARE, settings


def test_the_harmless_settings_are_named_first() -> None:
    config = load_config(["qwen2.5-3b/grpo"], ["vllm.sleep=0"])
    estimate = estimate_run(config, 8)
    context, total = estimate["context_tokens"], estimate["memory_per_process_gib"]["total"]
    assert fitting_settings(config, 8, total - 1, context) == ["vllm.sleep=1"]
    assert fitting_settings(config, 8, 1, context) == []


def test_no_engine_is_made_smaller_that_is_on_a_server() -> None:
    config = load_config(["qwen2.5-7b/tspo"], ["launch.engines=4", "deepspeed.zero_stage=0"])
    settings = fitting_settings(config, 4, 79.0, 6548)
    assert settings
    assert not any(setting.startswith("vllm.") for setting in settings)


def test_a_card_offers_less_than_its_name_says() -> None:
    total = plan("qwen2.5-3b/grpo", gpus=8)["memory_per_process_gib"]["total"]
    arguments = ["plan", "qwen2.5-3b/grpo", "--gpus", "8", "--gpu-memory"]
    tight = CliRunner().invoke(app, [*arguments, str(total + 0.1)])
    assert "would fit with --set" in str(tight.exception)
    assert "offers" in str(tight.exception)
    assert CliRunner().invoke(app, [*arguments, str(total / CARD_SHARE + 0.1)]).exit_code == 0


def test_operations_of_adapters_reference_and_recomputation() -> None:
    base = ["kind=sft", "data.world=w"]
    work = learner_operations(load_config([], base), 10, 3.0)
    assert work == 6 * 10 * 3
    rank = load_config([], [*base, "lora.rank=4"])
    assert learner_operations(rank, 10, 3.0) == 4 * 10 * 3
    assert learner_operations(load_config([], base), 10, 3.0, trained=5) == 4 * 10 * 3
    assert learner_operations(load_config([], base), 10, 3.0, trained=10) == work
    more = load_config([], [*base, "train.gradient_checkpointing=true"])
    assert learner_operations(more, 10, 3.0) == 8 * 10 * 3
    with_reference = load_config([], ["loss.kl=0.001"])
    assert learner_operations(with_reference, 10, 3.0) == 8 * 10 * 3


@pytest.mark.parametrize(
    ("settings", "bfloat16", "each"),
    [
        ([], False, 6),
        ([], True, 8),  # truncated importance weights
        (["rollout.engine=vllm"], False, 8),
        (["loss.mismatch=none"], True, 6),
        (["loss.mismatch=none", "train.updates_per_step=2"], True, 8),
        (["loss.old_logprobs=learner"], False, 8),
        (["loss.old_logprobs=engine"], True, 6),
        (["rollout.one_step_off=true"], False, 8),
        (["credit.algorithm=ppo"], False, 6 + 8),
        (["kind=sft", "data.world=w"], True, 6),
    ],
)
def test_operations_of_log_probs_before_the_update_and_of_a_critic(
    settings: list[str], bfloat16: bool, each: int
) -> None:
    """A step computes them on all its tokens (`as_samples_of_policy`, `Critic.values`)."""
    config = load_config([], settings)
    assert learner_operations(config, 10, 3.0, bfloat16=bfloat16) == each * 10 * 3


def test_seconds_on_a_cpu_count_the_engine_and_all_processes() -> None:
    estimate = {
        "parameters": 10**8,
        "active_parameters": 10**8,
        "precision": "float32",
        "trained_parameters": 10**8,
        "sequences_per_step": 4,
        "processes": 1,
    }
    rl, sft = load_config([]), load_config([], ["kind=sft", "data.world=w"])
    assert cpu_seconds(rl, estimate, 100, 1e11) > cpu_seconds(sft, estimate, 100, 1e11)
    halved = cpu_seconds(rl, {**estimate, "processes": 2}, 100, 1e11)
    assert halved == pytest.approx(cpu_seconds(rl, estimate, 100, 1e11) / 2)


@pytest.mark.parametrize(
    ("bfloat16", "has_instructions", "numbers"),
    [
        (True, True, torch.bfloat16),
        (True, False, torch.float32),
        (False, True, torch.float32),
    ],
)
def test_the_measured_product_is_the_one_that_trains(
    bfloat16: bool, has_instructions: bool, numbers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU without instructions for bfloat16 gave a plan of 150 million hours."""
    monkeypatch.setattr(formats, "has_bfloat16", lambda: has_instructions)
    assert product_dtype(bfloat16=bfloat16) is numbers


@pytest.mark.parametrize(("has_instructions", "copies"), [(True, 2), (False, 1)])
def test_a_packed_copy_of_bfloat16_weights_is_counted(
    has_instructions: bool, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "has_bfloat16", lambda: has_instructions)
    settings = ["model.dtype=bfloat16", "rollout.engine=transformers", "deepspeed.zero_stage=3"]
    config = load_config(["qwen2.5-3b/grpo"], settings)
    run = PlannedRun(config, model_shape(config), 0, 1000)
    assert engine_weights(run) * GIB == pytest.approx(copies * 2 * run.parameters)


def test_a_large_model_on_a_cpu_has_a_time(tmp_path: Any) -> None:
    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9}
    more = {"num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, **more, "model_type": "llama"}))
    settings = ["--set", f"model.path={tmp_path}", "--rollout-tokens", "300", "--json"]
    done = CliRunner().invoke(app, ["plan", "tiny/grpo", *settings])
    estimate = json.loads(done.stdout)
    assert estimate["seconds_per_step"] > 0
    assert "GFLOPS" in estimate["seconds_from"]


def test_known_lengths_bound_a_micro_batch() -> None:
    """The longest sequences of a step together, and each again where a step has more than all."""
    config = load_config([], ["kind=sft", "data.world=w", "train.batch_size=4"])
    lengths = (100, 700, 200, 300, 50)
    run = PlannedRun(config, model_shape(config), 0, 700, lengths)
    assert run.process_tokens == 700 + 300 + 200 + 100
    assert micro_batch_tokens(run) == (1300, 1300)
    again = PlannedRun(config, model_shape(config), 0, 700, lengths[:3])
    assert again.process_tokens == 1000 + 700
    assert PlannedRun(config, model_shape(config), 0, 700).process_tokens == 4 * 700
    several = load_config([], ["kind=sft", "data.world=w", "train.processes=2"])
    halved = PlannedRun(several, model_shape(several), 0, 700, lengths)
    assert halved.process_tokens == 1350 + 1200, "8 of 16 sequences: all five, and three again"


def test_only_what_is_trained_has_logits() -> None:
    own_words = ["kind=sft", "data.world=w", "rollout.max_new_tokens=10", "rollout.max_searches=4"]
    for weight, share in ((0, 50 / 500), (0.1, 1.0)):
        config = load_config([], [*own_words, f"loss.context_weight={weight}"])
        tokens, trained = micro_batch_tokens(PlannedRun(config, model_shape(config), 0, 500))
        assert trained == pytest.approx(share * tokens)


def test_sft_with_merged_adapters_has_an_engine_with_weights_of_its_own() -> None:
    sft = ["kind=sft", "data.world=w", "model.path=Qwen/Qwen2.5-3B"]
    config = load_config([], [*sft, "lora.rank=8"])
    run = PlannedRun(config, model_shape(config), 0, 1000)
    parts = process_phases(run).parts["update"]
    assert parts["engine_weights"] * GIB == pytest.approx(4 * run.parameters)
    assert not parts["kv_cache"]
    for more in ([], ["lora.rank=8"]):  # on a GPU adapters reach the engine as they are
        plain = load_config([], [*sft, *more])
        phases = process_phases(PlannedRun(plain, model_shape(plain), 1, 1000)).parts
        assert set(phases) == {"update"}


OWN_CACHE = "vllm.kv_cache_gib=0"


def rollouts(settings: list[str], gpu_gib: float = 0.0, gpus: int = 8) -> dict[str, float]:
    config = load_config(["qwen2.5-7b/grpo"], settings)
    run = PlannedRun(config, model_shape(config), gpus, 4000, gpu_gib=gpu_gib)
    return process_phases(run).parts["rollouts" if gpus else "update"]


@pytest.mark.parametrize("share", [0.35, 0.6])
def test_vllm_takes_its_share_of_the_gpu(share: float) -> None:
    """Without a size of its own the cache is what the engine's share leaves, however many
    sequences are in flight.
    """
    names = ("engine_weights", "kv_cache", "cuda_graphs", "workspace")
    for more in ([], ["rollout.batch_size=16"]):
        parts = rollouts([OWN_CACHE, f"vllm.memory={share}", *more], gpu_gib=79.0)
        assert sum(parts[name] for name in names) == pytest.approx(share * 79.0)
    every = 256 * 4000 * 57344 / GIB  # of a GPU that is not known: all sequences
    assert rollouts([OWN_CACHE])["kv_cache"] == pytest.approx(every)
    assert rollouts(["vllm.kv_cache_gib=5"], gpu_gib=79.0)["kv_cache"] == 5
    assert rollouts([OWN_CACHE], gpus=0)["kv_cache"] == 1.0, "vLLM's default here on a CPU"


@pytest.mark.parametrize(
    ("settings", "gpu", "said"),
    [
        ([OWN_CACHE, "vllm.memory=0.1"], "80", "vllm.memory: 0.1 of 79.0 GiB"),
        (["vllm.kv_cache_gib=0.2"], "80", "vllm.kv_cache_gib: 0.2 GiB"),
        (["vllm.kv_cache_gib=0.2"], "0", "vllm.kv_cache_gib: 0.2 GiB"),
    ],
)
def test_a_cache_without_room_for_one_sequence_is_refused(
    settings: list[str], gpu: str, said: str
) -> None:
    """vLLM does not start with it."""
    words = [word for setting in settings for word in ("--set", setting)]
    arguments = ["plan", "qwen2.5-7b/grpo", "--gpus", "8", "--gpu-memory", gpu, *words]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, GateError if gpu != "0" else InvalidInputError)
    assert str(done.exception).startswith(said)
    assert "it fits" not in done.stdout


def test_a_smaller_share_is_not_cured_with_fewer_sequences() -> None:
    config = load_config(["qwen2.5-7b/grpo"], [OWN_CACHE, "vllm.memory=0.9"])
    context = estimate_run(config, 8)["context_tokens"]
    settings = fitting_settings(config, 8, 79.0, context)
    assert [setting.partition("=")[0] for setting in settings] == ["vllm.kv_cache_gib"]
    changed = load_config(["qwen2.5-7b/grpo"], ["vllm.memory=0.9", *settings])
    assert estimate_run(changed, 8, gpu_gib=79.0)["memory_per_process_gib"]["total"] <= 79.0


def test_launched_engines_are_servers() -> None:
    launched = plan("qwen2.5-3b/grpo", "launch.engines=2", "launch.engine_gpus=[6,7]", gpus=6)
    named = plan("qwen2.5-3b/grpo", 'vllm.url=["http://127.0.0.1:8100"]', gpus=6)
    assert launched["phases_gib"] == named["phases_gib"]


TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96}


@pytest.mark.parametrize(
    ("kind", "more", "idle"),
    [
        ("qwen3_moe", EXPERTS, 3 * 6 * 3 * 64 * 96),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, 3 * 2 * 3 * 64 * 128),
        ("olmoe", EXPERTS, 3 * 6 * 3 * 64 * 128),
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 4, "head_dim": 16}, 0),
        ("starcoder2", {}, 0),
        ("gpt2", {}, 0),
        ("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}, 0),
        ("gemma2", {"head_dim": 32}, 0),
    ],
)
def test_every_architecture_is_counted(
    kind: str, more: dict[str, Any], idle: int, tmp_path: Any
) -> None:
    """Experts are many times the formula of a dense model, and a token goes through some of them.
    GPT-2 and OPT name their sizes otherwise.
    """
    config = CONFIG_MAPPING[kind](**TINY, **more)
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    shape = model_shape(load_config(["tiny/grpo"], [f"model.path={tmp_path}"]))
    assert shape.parameters() == total
    assert shape.active_parameters() == total - idle
    assert (shape.layers, shape.hidden, shape.heads) == (3, 64, 4)
    assert token_parameters(model) == pytest.approx((total - idle, total - idle), abs=1)
