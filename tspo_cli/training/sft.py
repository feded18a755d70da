"""Imitate demonstrations: drawn from a synthetic world, or recorded in files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tspo_cli.config.schema import Config
from tspo_cli.data.rows import invalid, read_rows
from tspo_cli.data.world.demonstrate import Demonstrator
from tspo_cli.data.world.generate import load_world
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.types import Hit, Retriever
from tspo_cli.rollout.protocol import SearchProtocol, answer_action, search_action
from tspo_cli.training.core.distributed import rank, world_size
from tspo_cli.training.core.learner import Learner
from tspo_cli.training.core.sequences import (
    ScriptedTrajectory,
    ScriptedTurn,
    demonstration_sequence,
)
from tspo_cli.training.loop import Step

DemonstrationSource = Callable[[int, int], ScriptedTrajectory]
"""(step, place in the batch) -> demonstration: no state, so that a resumed run sees what it would
have seen.
"""


def sft_step(
    config: Config, learner: Learner, protocol: SearchProtocol, source: DemonstrationSource
) -> Callable[[int], Step]:
    """The function that makes training step `step`."""

    def take(step: int) -> Step:
        started = time.perf_counter()
        mine = range(rank(), config.train.batch_size, world_size())
        sequences = [
            demonstration_sequence(source(step, place), protocol, config.loss.context_weight)
            for place in mine
        ]
        drawn = time.perf_counter()
        metrics = learner.update_sft(sequences)
        return Step(metrics, {"draw": drawn - started, "update": time.perf_counter() - drawn})

    return take


def demonstration_source(config: Config, retriever: Retriever | None) -> DemonstrationSource:
    """Demonstrations of config.data: from its world, else from its files.

    Raises:
        InvalidInputError: a world without a retriever to search with, or a malformed file.
    """
    if config.data.world:
        if retriever is None:
            raise InvalidInputError(
                "retriever.index: demonstrations of a world need an index of its corpus; set it"
            )
        return _from_world(config, retriever)
    return _from_files(config)


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

    def draw(step: int, place: int) -> ScriptedTrajectory:
        demonstration = demonstrator.draw(np.random.default_rng([config.seed, step, place]))
        return ScriptedTrajectory(
            demonstration.question,
            tuple(
                ScriptedTurn(
                    search_action(turn.think, turn.query),
                    tuple(Hit(one.id, one.contents, 0.0) for one in turn.passages),
                )
                if turn.query is not None
                else ScriptedTurn(answer_action(turn.think, turn.answer or ""))
                for turn in demonstration.turns
            ),
        )

    return draw


def _from_files(config: Config) -> DemonstrationSource:
    demonstrations = [
        one for name in config.data.demonstrations for one in read_demonstrations(Path(name))
    ]
    size = config.train.batch_size

    def draw(step: int, place: int) -> ScriptedTrajectory:
        epoch, index = divmod((step - 1) * size + place, len(demonstrations))
        order = np.random.default_rng([config.seed, epoch]).permutation(len(demonstrations))
        return demonstrations[int(order[index])]

    return draw


def read_demonstrations(path: Path) -> list[ScriptedTrajectory]:
    """JSONL of `{"question", "turns": [{"text", "passages": [{"id", "contents"}, ...]}, ...]}`.

    Raises:
        InvalidInputError: a malformed line, or none at all.
    """
    demonstrations = [_demonstration(path, number, record) for number, record in read_rows(path)]
    if not demonstrations:
        raise InvalidInputError(
            f"{path}: expected demonstrations, got an empty file; fix: name a file with some"
        )
    return demonstrations


def _demonstration(path: Path, number: int, record: dict[str, Any]) -> ScriptedTrajectory:
    question, turns = record.get("question"), record.get("turns")
    if not isinstance(question, str) or not isinstance(turns, list) or not turns:
        got = f"fields {', '.join(record)}"
        raise invalid(path, number, '"question" (a string) and "turns" (a list)', got, "write both")
    scripted = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str) or not turn["text"]:
            raise invalid(
                path,
                number,
                'every turn to have a "text"',
                str(turn)[:60],
                "write what the agent says",
            )
        passages = turn.get("passages") or []
        if not all(
            isinstance(one, dict) and isinstance(one.get("contents"), str) for one in passages
        ):
            raise invalid(
                path,
                number,
                'every passage to have "contents"',
                str(passages)[:60],
                "write its text",
            )
        hits = tuple(Hit(str(one.get("id", "")), one["contents"], 0.0) for one in passages)
        scripted.append(ScriptedTurn(turn["text"], hits))
    return ScriptedTrajectory(question, tuple(scripted))
