"""Everything that a training run works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.config.schema import Config
from tspo_cli.console import say, warn
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.engines.engine_protocol import Engine
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.runs import log_line
from tspo_cli.training.core.critic import Critic
from tspo_cli.training.core.distributed import rank
from tspo_cli.training.core.handover import hand_over
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.launch.same_experiment import EXPERIMENT, recorded_experiment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class TrainingRun:
    """Everything that a training run works with. `directory` is its run directory; `warnings` are
    all sentences of `warn` so far, which RUN/status.json keeps.
    """

    config: Config
    directory: Path
    attempt: int
    tokenizer: PreTrainedTokenizerFast
    protocol: SearchProtocol
    learner: PolicyLearner
    engine: Engine
    retriever: Retriever | None
    critic: Critic | None = None
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def belongs(self) -> dict[str, str]:
        """What every checkpoint says of the run that it belongs to; nothing where the run was begun
        by an earlier version, or on a process that writes no records.
        """
        found = recorded_experiment(self.directory) if self.is_main_process else None
        return {EXPERIMENT: found} if found is not None else {}

    @property
    def is_main_process(self) -> bool:
        """True on the process that writes files and messages."""
        return rank() == 0

    def hand_over(self, step: int) -> None:
        """Give the engine the learner's weights of `step`."""
        hand_over(self.learner, self.engine, self.protocol, self.config, step)

    def log(self, message: str) -> None:
        """Print a message and add it to the attempt's log."""
        if self.is_main_process:
            say(message)
            log_line(self.directory, self.attempt, message)

    def warn(self, message: str) -> None:
        """Print a warning, add it to the attempt's log, and keep it for RUN/status.json."""
        if self.is_main_process:
            if message not in self.warnings:
                self.warnings.append(message)
            warn(message)
            log_line(self.directory, self.attempt, f"warning: {message}")
