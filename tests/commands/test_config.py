"""`tspo config` and `tspo plan` as a person runs them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.models.small_tokenizers import CHATML, byte_level
from tspo_cli.commands import config as config_cmd
from tspo_cli.commands.plan import plan
from tspo_cli.config.context import context_length
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.errors import GateError, InvalidInputError, MissingResourceError
from tspo_cli.models.load_model import load_tokenizer
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.planning.engine_memory import kv_cache_bytes
from tspo_cli.training.planning.estimate import estimate_run
from tspo_cli.training.planning.model_shape import model_shape
from tspo_cli.training.start.longest import longest_sequence

QWEN_3B = {
    "model_type": "qwen2",
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(
        "# my notes\nseed = 3\n[data]\ntrain = ['q.jsonl']\n[model]\npath = "
        "'m'\n[retriever]\nindex = 'i'\n"
    )
    return str(path)


@pytest.fixture
def qwen(tmp_path: Path) -> str:
    folder = tmp_path / "qwen"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN_3B))
    return str(folder)


def config_(*arguments: str) -> Result:
    return CliRunner().invoke(config_cmd.app, arguments)


def plan_(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(plan)
    return CliRunner().invoke(app, arguments)


def test_show_prints_the_file_as_it_was_written(experiment: str) -> None:
    assert config_("show", experiment).stdout == Path(experiment).read_text()


def test_show_prints_a_file_that_extends_another_as_one_file(tmp_path: Path) -> None:
    shown = config_("show", "tiny/tspo").stdout
    assert "extends" not in shown
    assert len(shown.splitlines()) < 80
    (tmp_path / "copy.toml").write_text(shown)
    assert load_config([tmp_path / "copy.toml"]) == load_config(["tiny/tspo"])


def test_show_resolved_is_an_experiment_file_again(experiment: str, tmp_path: Path) -> None:
    for arguments in (["--resolved"], ["--set", "seed=3"], [experiment]):
        shown = config_("show", experiment, *arguments).stdout
        (tmp_path / "again.toml").write_text(shown)
        assert load_config([tmp_path / "again.toml"]) == load_config([experiment])
    assert (
        json.loads(config_("show", experiment, "--json").stdout)
        == load_config([experiment]).section_dict()
    )


@pytest.mark.parametrize("form", [(), ("--resolved",), ("--json",)])
def test_show_warns_of_a_secret_in_its_output(tmp_path: Path, form: tuple[str, ...]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[retriever]\nurl = "http://u:PW@h/?token=T0ken"\n')
    done = config_("show", str(file), *form)
    assert "warning: retriever.url: the output has the secret" in done.stderr
    assert "http://u:PW@h/?token=T0ken" in done.stdout
    assert "PW" not in done.stderr


def test_show_refuses_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("sede = 3\n")
    assert isinstance(config_("show", str(tmp_path / "bad.toml")).exception, InvalidInputError)


def test_validate(experiment: str) -> None:
    assert config_("validate", experiment).stdout.startswith("valid: rl, 100 steps")
    assert json.loads(config_("validate", experiment, "--json").stdout)["valid"] is True
    assert isinstance(
        config_("validate", experiment, "--set", "model.path=").exception, InvalidInputError
    )


def test_schema_is_a_complete_experiment_file() -> None:
    text = config_("schema").stdout
    assert Config.model_validate(tomllib.loads(text)) == Config()
    assert "group_size = 5  # an integer >= 1. Rollouts per question." in text


def test_schema_of_one_section_and_as_json() -> None:
    assert set(tomllib.loads(config_("schema", "credit").stdout)) == {"credit"}
    assert "did you mean credit?" in str(config_("schema", "cerdit").exception)
    assert json.loads(config_("schema", "--json").stdout)["title"] == "Config"


def test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments/own").mkdir(parents=True)
    (tmp_path / "experiments/own/a.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert "own/a" in config_("list").stdout
    rows = json.loads(config_("list", "--json").stdout)["recipes"]
    assert {"name": "own/a", "path": "experiments/own/a.toml"} in rows


def test_plan_counts_the_parameters_of_a_known_model(experiment: str, qwen: str) -> None:
    estimate = json.loads(plan_(experiment, "--set", f"model.path={qwen}", "--json").stdout)
    assert estimate["parameters"] == 3_085_938_688  # as published for Qwen2.5-3B, tied embeddings
    assert estimate["precision"] == "float32"


def test_plan_counts_what_transformers_builds(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    more = {"intermediate_size": 96, "vocab_size": 100}
    for model, spec in (
        (Qwen2ForCausalLM, Qwen2Config(**sizes, **more, tie_word_embeddings=True)),
        (LlamaForCausalLM, LlamaConfig(**sizes, **more, tie_word_embeddings=False)),
    ):
        built = sum(parameter.numel() for parameter in model(spec).parameters())
        spec.save_pretrained(tmp_path)
        assert model_shape(load_config([], [f"model.path={tmp_path}"])).parameters() == built


@pytest.mark.parametrize(
    ("stage", "bytes_each"), [(0, 16), (1, 4 + 12 / 8), (2, 2 + 16 / 8), (3, 18 / 8)]
)
def test_plan_divides_by_zero_stage(qwen: str, stage: int, bytes_each: float) -> None:
    config = load_config([], [f"model.path={qwen}", f"deepspeed.zero_stage={stage}"])
    estimate = estimate_run(config, gpus=8)
    memory = estimate["memory_per_process_gib"]
    states = memory["weights"] + memory["gradients"] + memory["optimizer"]
    assert states * 2**30 == pytest.approx(estimate["parameters"] * bytes_each)
    assert memory["total"] == pytest.approx(
        sum(value for name, value in memory.items() if name != "total")
    )


def test_plan_of_a_tiny_sft_run_has_no_rollouts() -> None:
    estimate = estimate_run(load_config([], ["kind=sft", "data.world=w"]), gpus=0)
    assert 0.27e6 < estimate["parameters"] < 0.29e6
    assert "kv_cache" not in estimate["memory_per_process_gib"]
    assert estimate["sequences_per_step"] == 16


def test_kv_cache_of_a_known_model(qwen: str) -> None:
    shape = model_shape(load_config([], [f"model.path={qwen}"]))
    assert (
        kv_cache_bytes(shape, context=1, sequences=1, bytes_each=2) == 36_864
    )  # 36 KiB a token in bfloat16


def test_plan_gates_on_memory_after_it_has_printed(experiment: str, qwen: str) -> None:
    arguments = [experiment, "--set", f"model.path={qwen}", "--gpus", "8", "--gpu-memory"]
    assert plan_(*arguments, "1000").exit_code == 0
    refused = plan_(*arguments, "10")
    assert isinstance(refused.exception, GateError)
    assert "3,085.94 M parameters" in refused.stdout


def test_plan_needs_the_model_on_this_machine(experiment: str, tmp_path: Path) -> None:
    assert isinstance(plan_(experiment).exception, MissingResourceError)
    (tmp_path / "config.json").write_text("{}")
    assert isinstance(
        plan_(experiment, "--set", f"model.path={tmp_path}").exception, InvalidInputError
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["retriever.url=http://127.0.0.1:8000"],
            "warning: passages come from retriever.index (i), not from retriever.url "
            "(http://127.0.0.1:8000)",
        ),
        (
            [
                "retriever.qdrant.url=http://q:1",
                "retriever.qdrant.collection=c",
                "retriever.qdrant.encoder=e",
            ],
            "warning: passages come from retriever.index (i), not from retriever.qdrant.url",
        ),
        (
            [
                *("retriever.index=", "retriever.url=http://a,http://b"),
                *("retriever.qdrant.url=http://q", "retriever.qdrant.collection=c"),
                "retriever.qdrant.encoder=e",
            ],
            "from retriever.url (http://a,http://b), not from retriever.qdrant.url (http://q)",
        ),
        (["credit.options.price=1"], "warning: tspo does not use [credit.options]"),
        (
            ["credit.algorithm=grpo", "credit.options.a=1"],
            "warning: grpo does not use [credit.options]",
        ),
        ([], ""),
        (["retriever.index=", "retriever.url=http://a"], ""),
    ],
)
def test_settings_without_effect_are_named(experiment: str, settings: list[str], told: str) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    done = config_("validate", experiment, *options, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["valid"] is True
    assert told in done.stderr
    assert done.stderr.count("\n") == bool(told)


def test_plan_gives_a_sequence_longer_than_a_micro_batch_a_batch_of_its_own(qwen: str) -> None:
    def activations(*settings: str) -> float:
        config = load_config([], [f"model.path={qwen}", "kind=sft", "data.world=w", *settings])
        return float(estimate_run(config, gpus=0)["memory_per_process_gib"]["activations"])

    budget = "train.tokens_per_micro_batch=2048"
    long = activations(budget, "model.max_context=6144")
    assert activations(budget, "model.max_context=12288") == pytest.approx(2 * long)
    filled = activations(budget, "model.max_context=984")
    assert activations(budget, "model.max_context=984", "train.batch_size=1") < filled < long


def test_plan_measures_the_data_that_is_here(qwen: str, tmp_path: Path) -> None:
    model, demonstrations, questions = Path(qwen), tmp_path / "d.jsonl", tmp_path / "q.jsonl"
    byte_level(template=CHATML).save_pretrained(model)
    turn = {"text": "<answer>" + "far away, " * 30 + "</answer>"}
    lines = [{"question": "Where is it?", "turns": [{"text": "<answer>here</answer>"}]}]
    lines.append({"question": "Where is it, then?", "turns": [turn]})
    demonstrations.write_text("\n".join(map(json.dumps, lines)))
    questions.write_text('{"id": "1", "question": "Where?", "golden_answers": ["here"]}\n')

    def plan_of(*settings: str) -> dict[str, Any]:
        config = load_config([], [f"model.path={model}", *settings])
        return estimate_run(config, 0, longest_sequence(config))

    sft = plan_of("kind=sft", f'data.demonstrations=["{demonstrations}"]')
    config = load_config([], [f"model.path={model}"])
    protocol = SearchProtocol.from_config(load_tokenizer(model), config.rollout)
    sequence = len(protocol.prompt_ids("Where is it, then?"))
    sequence += len(protocol.action_ids(turn["text"]))
    assert (sft["context_tokens"], sft["context_from"]) == (sequence, "the longest demonstration")
    away = plan_of("kind=sft", 'data.demonstrations=["none.jsonl"]')
    assert (away["context_tokens"], away["context_from"]) == (
        context_length(config),
        "the sum of the limits",
    )
    rl = plan_of(f'data.train=["{questions}"]')
    spared = config.rollout.max_prompt_tokens - len(protocol.prompt_ids("Where?"))
    assert rl["context_tokens"] == context_length(config) - max(0, spared)
    assert "longest prompt" in rl["context_from"]
