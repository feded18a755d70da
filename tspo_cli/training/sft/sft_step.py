"""A step of supervised fine-tuning: imitate demonstrations, drawn from a synthetic world or read
from files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tspo_cli.config.schema import Config
from tspo_cli.data.world.demonstrate import Demonstrator
from tspo_cli.data.world.generate import load_world
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.types import Hit, Retriever
from tspo_cli.rollout.protocol import SearchProtocol, answer_action, search_action
from tspo_cli.timing import Clock
from tspo_cli.training.core.distributed import rank, world_size
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import (
    ScriptedTrajectory,
    ScriptedTurn,
    TrainSequence,
    demonstration_sequence,
)
from tspo_cli.training.core.stop_points import local_work
from tspo_cli.training.loop import StepResult
from tspo_cli.training.sft.demonstration_file import read_demonstrations
from tspo_cli.training.sft.held_out import held_out_loss

DemonstrationSource = Callable[[int, int], ScriptedTrajectory]
"""(step, position in the batch) -> demonstration. There is no state: a resumed run gets the same
demonstrations as one that was never stopped.
"""


@dataclass
class SftStep:
    """Makes the training steps: demonstrations are drawn, and the policy imitates them."""

    config: Config
    learner: PolicyLearner
    protocol: SearchProtocol
    source: DemonstrationSource
    held_out: Sequence[ScriptedTrajectory] = ()
    clock: Clock = field(default_factory=Clock)

    def __call__(self, step: int, is_kept: bool) -> StepResult:
        """Make training step `step` (from 1)."""
        with self.clock.part("draw"), local_work():
            sequences = self.sequences_of(step)
        with self.clock.part("update"):
            metrics = self.learner.update_sft(sequences)
        every, last = self.config.eval.every, step == self.config.train.steps
        if self.held_out and (last or (every and step % every == 0)):
            with self.clock.part("held_out"):
                loss = held_out_loss(self.learner, self.protocol, self.held_out)
            metrics = metrics | {"eval_loss": loss}
        return StepResult(metrics, self.clock.take())

    def sequences_of(self, step: int) -> list[TrainSequence]:
        """This process's share of the step's demonstrations."""
        return [
            demonstration_sequence(
                self.source(step, position), self.protocol, self.config.loss.context_weight
            )
            for position in range(rank(), self.config.train.batch_size, world_size())
        ]


def demonstration_source(
    config: Config, retriever: Retriever | None, recorded: Sequence[ScriptedTrajectory]
) -> DemonstrationSource:
    """Demonstrations of config.data: from its world, else the `recorded` ones of its files.

    Raises:
        InvalidInputError: a world without a retriever to search with.
    """
    if config.data.world:
        if retriever is None:
            raise InvalidInputError(
                "retriever.index: demonstrations of a world need an index of its corpus; set it"
            )
        return _from_world(config, retriever)
    return _from_files(recorded, config)


def _from_world(config: Config, retriever: Retriever) -> DemonstrationSource:
    def search(queries: Sequence[str], k: int) -> list[Sequence[Hit]]:
        return [result.hits for result in retriever.search(queries, k)]

    demonstrator = Demonstrator(
        load_world(Path(config.data.world)),
        search,
        config.demonstrations,
        k=config.retriever.k,
        max_searches=config.rollout.max_searches,
        rename=config.data.rename_entities,
    )

    def draw(step: int, position: int) -> ScriptedTrajectory:
        demonstration = demonstrator.draw(np.random.default_rng([config.seed, step, position]))
        return ScriptedTrajectory(
            demonstration.question,
            tuple(
                ScriptedTurn(
                    search_action(turn.think, turn.query),
                    tuple(Hit(passage.id, passage.contents, 0.0) for passage in turn.passages),
                )
                if turn.query is not None
                else ScriptedTurn(answer_action(turn.think, turn.answer or ""))
                for turn in demonstration.turns
            ),
        )

    return draw


def recorded_demonstrations(config: Config) -> list[ScriptedTrajectory]:
    """The demonstrations of all files of config.data, empty where a world makes them.

    Raises:
        InvalidInputError, MissingResourceError: as `read_demonstrations`.
    """
    names = [] if config.data.world else config.data.demonstrations
    return [demonstration for name in names for demonstration in read_demonstrations(Path(name))]


def _from_files(
    demonstrations: Sequence[ScriptedTrajectory], config: Config
) -> DemonstrationSource:
    size = config.train.batch_size

    def draw(step: int, position: int) -> ScriptedTrajectory:
        epoch, index = divmod((step - 1) * size + position, len(demonstrations))
        order = np.random.default_rng([config.seed, epoch]).permutation(len(demonstrations))
        return demonstrations[int(order[index])]

    return draw
