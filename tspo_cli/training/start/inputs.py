"""What a training works on besides its model: passages, and questions or demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, field

from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.data.question import Question
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.retrieval.types import Retriever
from tspo_cli.training.core.sequences import ScriptedTrajectory
from tspo_cli.training.rl.question_batches import read_training_questions
from tspo_cli.training.sft.held_out import split_demonstrations
from tspo_cli.training.sft.sft_step import recorded_demonstrations


@dataclass(frozen=True)
class TrainingInputs:
    """`retriever` is None where rollouts may not search. SFT has no `questions`, and
    `demonstrations` where they are recorded, without those that are `held_out`; other kinds have
    `questions` alone.
    """

    retriever: Retriever | None
    questions: list[Question]
    demonstrations: list[ScriptedTrajectory]
    held_out: list[ScriptedTrajectory] = field(default_factory=list)


def open_inputs(config: Config) -> TrainingInputs:
    """Read and open everything that `config` names.

    Raises:
        InvalidInputError, MissingResourceError: data or index that cannot be used.
        RemoteServiceError: no server of passages answers.
    """
    retriever = open_retriever(config.retriever)
    if config.kind == "sft":
        trained, held_out = split_demonstrations(config, recorded_demonstrations(config))
        return TrainingInputs(retriever, [], trained, held_out)
    return TrainingInputs(retriever, read_training_questions(config), [])


def data_in_words(config: Config, inputs: TrainingInputs) -> str:
    """How much there is to train on, and how often the run sees it."""
    if config.kind != "sft":
        drawn = config.train.steps * config.rollout.questions_per_step
        count = len(inputs.questions)
        return f"{counted(count, 'training question')} ({_epochs(drawn / count)})"
    if not inputs.demonstrations:
        return "demonstrations of a world"
    count = len(inputs.demonstrations)
    epochs = config.train.steps * config.train.batch_size / count
    held_out = f", {len(inputs.held_out):,} held out" if inputs.held_out else ""
    return f"{counted(count, 'demonstration')} ({_epochs(epochs)}){held_out}"


def _epochs(number: float) -> str:
    shown = f"{number:.3g}"
    return f"{shown} epoch{'' if shown == '1' else 's'}"
