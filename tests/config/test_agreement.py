"""`tspo config validate` and `tspo train --dry-run` say the same of any configuration.

All files exist here, so that only the configuration can be refused: validate passes exactly where
the dry run passes, and both end with exit code 3 otherwise.
"""

from __future__ import annotations

import io
import json
import random
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from tspo_cli import packages
from tspo_cli.commands.app import app
from tspo_cli.errors import TspoError

MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "run_0_1_0" / "start" / "model"
CONFIGURATIONS = 240
COMMAND = get_command(app)  # made once: typer takes half a second to make it


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    message: str
    out: str


# Values of every key, good and bad, alone or in combination with others.
VALUES: dict[str, list[object]] = {
    "kind": ["rl", "rl", "sft", "rejection_sampling", "ppo"],
    "seed": [0, 3, -1],
    "model.path": ["MODEL", "MODEL", ""],
    "model.hidden_size": [96, 64, 32, 100],
    "model.max_context": [0, 4096, 300, 2548, 2547],
    "model.dtype": ["float32", "float16"],
    "data.train": ["['TRAIN']", "['TRAIN']", "[]"],
    "data.world": ["WORLD", ""],
    "retriever.index": ["INDEX", "INDEX", ""],
    "retriever.k": [3, 0],
    "retriever.url": ["[]", "ftp://x"],
    "retriever.search.ties": ["", "id"],
    "retriever.qdrant.collection": ["", "passages"],
    "rollout.prompt": ["search_r1", "short", "chatml"],
    "rollout.max_searches": [0, 4],
    "rollout.max_new_tokens": [16, 500, 3000],
    "rollout.max_prompt_tokens": [3000, 2048],
    "rollout.temperature": [1.0, 0.0, -1],
    "rollout.group_size": [5, 2, 1],
    "rollout.questions_per_step": [8, 1],
    "rollout.engine": ["transformers", "vllm", "sglang"],
    "rollout.top_k": [0, 5],
    "rollout.one_step_off": ["false", "true"],
    "rollout.dynamic_sampling": ["false", "true"],
    "vllm.url": ["[]", "['http://127.0.0.1:9']"],
    "vllm.sleep": [0, 1],
    "vllm.tensor_parallel": [1, 2],
    "credit.algorithm": [
        "tspo",
        "grpo",
        "gropo",
        "gigpo",
        "mt_grpo",
        "igpo",
        "ppo",
        "dapo",
        "reinforce_pp",
        "rejection_sampling",
        "PRICED",
        "none.py",
    ],
    "credit.gate": ["always", "sometimes"],
    "credit.outcome": ["em", "f1", "accuracy"],
    "credit.gigpo.coef": [2.0, -1],
    "credit.gigpo_coef": [1.0],
    "credit.options.price": [0.1, -0.1],
    "loss.kl": [0.0, 0.01],
    "loss.kl_in": ["loss", "reward"],
    "optimizer.lr": [1e-4, 0],
    "lora.dropout": [0.0, 0.1],
    "lora.rank": [0, 8],
    "train.steps": [1, 0],
    "train.updates_per_step": [1, 4, 100],
    "train.stop_when": ["[]", "['reward < 0.1 for 3']", "['nonsense']"],
    "eval.every": [0, 5],
    "eval.data": ["[]", "['TEST']"],
    "deepspeed.offload_optimizer": ["false", "true"],
    "deepspeed.zero_stage": [0, 1, 4],
    "track.tensorboard": ["false", "true"],
    "track.wandb": ["false", "true"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the values in capitals stand for."""
    root = tmp_path_factory.mktemp("agreement")
    made = run("data", "make-world", "--out", root / "world", "--entities", 40,
               "--test-entities", 30, "--train-questions", 8, "--test-questions", 4)  # fmt: skip
    assert made.code == 0, made.message
    built = run("index", "build", root / "world" / "corpus.jsonl", "--out", root / "index")
    assert built.code == 0, built.message
    return {
        "MODEL": str(MODEL),
        "WORLD": str(root / "world"),
        "TRAIN": str(root / "world" / "train.jsonl"),
        "TEST": str(root / "world" / "test.jsonl"),
        "INDEX": str(root / "index"),
        "PRICED": f"{Path(__file__).resolve().parents[1] / 'credit' / 'priced.py'}:priced",
    }


def run(*arguments: object) -> Ended:
    """Run a command in this process. Its exit code and message are those of `main`."""
    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            COMMAND.main([str(argument) for argument in arguments], standalone_mode=False)
    except TspoError as error:
        return Ended(error.exit_code, str(error), out.getvalue())
    return Ended(0, "", out.getvalue())


def drawn_settings(draw: random.Random, files: dict[str, str]) -> list[str]:
    """A configuration that could train, with up to five keys changed."""
    base: dict[str, object] = {
        "model.path": "MODEL",
        "data.train": "['TRAIN']",
        "data.world": "WORLD",
        "retriever.index": "INDEX",
    }
    for key in draw.sample(sorted(VALUES), draw.randint(0, 5)):
        base[key] = draw.choice(VALUES[key])
    settings = [f"{key}={value}" for key, value in base.items()]
    for name, path in files.items():
        settings = [setting.replace(name, path) for setting in settings]
    return settings


def test_validate_and_the_dry_run_agree(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A package that is not installed is exit code 4 of the dry run alone.
    monkeypatch.setattr(packages, "is_installed", lambda module: True)
    # So is a length that vLLM does not take: the model has to be there.
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    draw = random.Random(16)
    source = tmp_path / "empty.toml"
    source.write_text("")
    codes = []
    for _ in range(CONFIGURATIONS):
        settings = drawn_settings(draw, files)
        options = [part for setting in settings for part in ("--set", setting)]
        validated = run("config", "validate", source, *options)
        dry = run("train", source, "--dry-run", *options)
        assert validated.code == dry.code, (settings, validated, dry)
        codes.append(validated.code)
        if validated.code:
            assert validated.code == 3, settings
            assert dry.message.startswith(validated.message.splitlines()[0]), settings
    assert min(codes.count(0), codes.count(3)) > CONFIGURATIONS / 5


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (["credit.algorithm=gropo"], "did you mean grpo?"),
        (["rollout.max_turns=3"], "did you mean rollout.max_searches?"),
        (["actor.max_response_length=3"], "did you mean rollout.max_new_tokens?"),
        (["learning_rate=1e-6"], "did you mean optimizer.lr?"),
        (["neftune_noise_alpha=5"], "did you mean loss.embedding_noise?"),
        (["credit.algorithm=gigpo", "rollout.group_size=1"], "rollout.group_size"),
        (['train.stop_when=["nonsense"]'], "train.stop_when"),
        (["rollout.prompt=chatml"], "rollout.prompt"),
        (["model.max_context=287"], "model.max_context"),  # a prompt of 256 and a turn of 32
    ],
)
@pytest.mark.parametrize("command", [["config", "validate"], ["plan"], ["train"]])
def test_what_cannot_train_is_refused_everywhere(
    settings: list[str], key: str, command: list[str], tmp_path: Path
) -> None:
    out = ["--out", tmp_path / "run"] if command == ["train"] else []
    options = [part for setting in settings for part in ("--set", setting)]
    result = run(*command, "tiny/grpo", *options, *out)
    assert result.code == 3
    assert key in result.message
    assert not (tmp_path / "run").exists()


def test_the_default_lengths_need_more_than_300_tokens() -> None:
    options = ["--set", "model.max_context=300", "--set", "rollout.max_prompt_tokens=2048"]
    options += ["--set", "rollout.max_new_tokens=500"]
    assert (
        "model.max_context: 300 tokens" in run("config", "validate", "tiny/grpo", *options).message
    )


def test_validate_lists_every_problem_in_a_line_each(tmp_path: Path) -> None:
    options = ["--set", "credit.algorithm=gropo", "--set", "rollout.prompt=chatml"]
    result = run("config", "validate", "tiny/grpo", "--json", *options)
    problems = json.loads(result.out)["problems"]
    assert len(problems) == 2
    assert result.message.splitlines() == problems


def test_a_cell_of_a_sweep_is_checked_as_train_checks_it(tmp_path: Path) -> None:
    file = tmp_path / "bad.sweep.toml"
    file.write_text(
        'base = "tiny/grpo"\nseeds = [0]\n[arms.good]\n[arms.bad]\nrollout.prompt = "chatml"\n'
    )
    result = run("sweep", file, "--out", tmp_path / "sweep")
    assert result.code == 3
    assert "cell bad: rollout.prompt" in result.message
