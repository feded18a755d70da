"""What a training says of itself before its first step."""

from __future__ import annotations

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.data.question import Question
from tspo_cli.training.announce import idle_gpus
from tspo_cli.training.early_stop import idle_rules
from tspo_cli.training.start.inputs import TrainingInputs, data_in_words


@pytest.mark.parametrize(
    ("processes", "launched", "gpus", "idle"),
    [
        (1, None, 8, True),
        (1, None, 1, False),
        (1, None, 0, False),
        (8, None, 8, False),
        (1, "8", 8, False),
        (1, "4", 8, True),
    ],
)
def test_gpus_that_training_leaves_idle_are_named(
    processes: int, launched: str | None, gpus: int, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if launched is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", launched)
    config = load_config(["tiny/grpo"], [f"train.processes={processes}"])
    said = [*idle_gpus(config, gpus)]
    assert len(said) == idle
    assert all(line.startswith(f"training uses {launched or processes} of {gpus}") for line in said)


def test_a_rule_that_looks_at_more_steps_than_a_run_has_is_said() -> None:
    rules = ["reward < 0.1 for 3", "em > 0.9 for 4"]
    (said,) = idle_rules(rules, "rl", 3, 0)
    assert said.startswith('train.stop_when: "em > 0.9 for 4" looks at 4 steps, and the run has 3 ')
    assert idle_rules(rules, "rl", 4, 0) == []


def test_a_rule_about_held_out_loss_counts_steps_and_not_measurements() -> None:
    rules = ["eval_loss > 2 for 3"]
    (said,) = idle_rules(rules, "sft", 100, 10)
    assert said == (
        'train.stop_when: "eval_loss > 2 for 3" looks at 3 steps in a row, and eval_loss is '
        "measured every 10 steps (eval.every), so it never ends the run; name 1"
    )
    assert "measured at the end, so" in idle_rules(rules, "sft", 100, 0)[0]
    assert not idle_rules(rules, "sft", 100, 1)
    assert not idle_rules(["eval_loss > 2 for 1"], "sft", 100, 10)


def test_a_rule_about_held_out_loss_needs_held_out_demonstrations() -> None:
    (said,) = idle_rules(["eval_loss > 2 for 1", "loss < 0.1 for 2"], "sft", 100, None)
    assert said == (
        'train.stop_when: "eval_loss > 2 for 1" never ends the run, because no demonstration is '
        "held out; set data.held_out or data.held_out_share"
    )


def test_one_question_and_one_epoch_are_said_in_the_singular() -> None:
    question = Question("q", "Who?", ("Ada",), "set")
    settings = ["train.steps=3", "rollout.questions_per_step=2"]
    for copies, words in ((6, "6 training questions (1 epoch)"), (1, "1 training question (6 epo")):
        inputs = TrainingInputs(None, [question] * copies, [])
        assert data_in_words(load_config(["tiny/grpo"], settings), inputs).startswith(words)
