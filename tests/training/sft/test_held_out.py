"""Demonstrations that are held out: which, what is refused, and the loss that is logged of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sections.agent_sections import ModelConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.tiny import tiny_model
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.runs import read_jsonl
from tspo_cli.training.sft.demonstration_file import read_demonstrations
from tspo_cli.training.sft.epochs import with_steps_of_epochs
from tspo_cli.training.sft.held_out import split_demonstrations

SEARCH = {
    "text": "<think> who </think> <search> who </search>",
    "passages": [{"id": "1", "contents": '"Light"\nlight light light'}],
}


def write(path: Path, questions: range) -> Path:
    rows = [
        {
            "question": f"Who is {number}?",
            "turns": [SEARCH] * searches + [{"text": f"<answer> {number} </answer>"}],
        }
        for number in questions
        for searches in (0, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["train.epochs=1"], 5),
        (["train.epochs=2", "train.batch_size=8"], 5),
        (["train.epochs=0.1"], 1),
        (["train.epochs=1", "data.held_out_share=0.5"], 3),
        (["train.epochs=3", "train.batch_size=100"], 1),
        (["train.steps=7"], 7),
    ],
)
def test_epochs_are_steps_over_what_is_trained(
    settings: list[str], steps: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "demos.jsonl", range(10))
    common = [f'data.demonstrations=["{path}"]', "train.batch_size=4", *settings]
    assert with_steps_of_epochs(load_config(["any/sft"], common)).train.steps == steps


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("tiny/warmstart", "train.epochs: needs data.demonstrations"),
        ("tiny/grpo", 'train.epochs: kind = "rl" counts train.steps'),
    ],
)
def test_epochs_of_anything_else_are_refused(recipe: str, said: str) -> None:
    done = run_tspo("train", recipe, "--dry-run", "--set", "train.epochs=1")
    assert done.code == 3
    assert said in done.err


def test_a_share_is_of_questions_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    made = read_demonstrations(write(tmp_path / "demos.jsonl", range(10)))
    config = load_config(["any/sft"], ["data.held_out_share=0.3", "seed=1"])
    trained, held = split_demonstrations(config, made)
    assert (len(trained), len(held)) == (14, 6)
    assert not {one.question for one in trained} & {one.question for one in held}
    assert split_demonstrations(config, made) == (trained, held)
    other = load_config(["any/sft"], ["data.held_out_share=0.3", "seed=2"])
    assert split_demonstrations(other, made)[1] != held
    nothing = load_config(["any/sft"], [])
    assert split_demonstrations(nothing, made) == (made, [])


@pytest.mark.parametrize("share", ["0.01", "0.99"])
def test_a_share_that_leaves_a_side_empty_is_refused(share: str, tmp_path: Path) -> None:
    made = read_demonstrations(write(tmp_path / "demos.jsonl", range(5)))
    config = load_config(["any/sft"], [f"data.held_out_share={share}"])
    with pytest.raises(InvalidInputError, match=r"data\.held_out_share"):
        split_demonstrations(config, made)


def test_a_question_on_both_sides_is_refused(tmp_path: Path) -> None:
    made = read_demonstrations(write(tmp_path / "demos.jsonl", range(5)))
    config = load_config(
        ["any/sft"], [f'data.held_out=["{write(tmp_path / "held.jsonl", range(4, 8))}"]']
    )
    with pytest.raises(InvalidInputError, match=r"1 of its questions .* 'Who is 4\?'"):
        split_demonstrations(config, made)


def test_the_loss_is_logged_and_changes_nothing_else(
    tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer(("who", "light"), ("ba", "ko"))
    model = tiny_model(len(tokenizer), ModelConfig(copy_prior=False), seed=0)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    demos = write(tmp_path / "demos.jsonl", range(4))
    held = write(tmp_path / "held.jsonl", range(4, 6))
    rows = {}
    for name, more in {
        "with": ["--set", f'data.held_out=["{held}"]', "--set", "eval.every=2"],
        "without": [],
    }.items():
        done = tspo(
            *("train", "any/sft", "--set", f"model.path={tmp_path / 'model'}", *more),
            *("--set", f'data.demonstrations=["{demos}"]', "--set", "train.steps=3"),
            *("--set", "train.batch_size=2", "--set", "optimizer.lr=0.001"),
            *("--out", tmp_path / name),
        )
        rows[name] = read_jsonl(tmp_path / name / "metrics.jsonl")
        assert ("4 held out" in done.err) is (name == "with")
        for step in (2, 3):  # said also where the line of the step is not
            assert (f"step {step}: eval_loss " in done.err) is (name == "with")
    losses = [row.pop("eval_loss", None) for row in rows["with"]]
    assert losses[0] is None
    assert 0 < losses[2] < losses[1], "every two steps and at the end; the policy learns"
    assert rows["with"] == rows["without"], "nothing was trained on them"


@pytest.mark.parametrize(
    "settings",
    [
        ("any/grpo", "data.held_out_share=0.1"),
        ("any/sft", "data.world=w", "data.held_out_share=0.1"),
        ("any/sft", 'data.held_out=["a"]', "data.held_out_share=0.1"),
    ],
)
def test_where_nothing_can_be_held_out(
    settings: tuple[str, ...],
) -> None:
    recipe, *values = settings
    given = [word for value in values for word in ("--set", value)]
    done = run_tspo("config", "validate", recipe, *given)
    assert done.code == 3
    assert "data.held_out: " in done.out + done.err
