"""Which questions a training step rolls out.

Batches depend on the experiment's seed and the number of the step alone: there is no state, so that
a resumed run continues with the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tspo_cli.config.schema import Config
from tspo_cli.console import agreeing, counted, part_of, say
from tspo_cli.data.question import Question
from tspo_cli.data.readers import read_questions, resolve_data
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.agent import Task
from tspo_cli.rollout.branch import Branch
from tspo_cli.rollout.prompt_length import measure_prompts
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, request_seed

# Draws of refills are multiples of it, so that they differ from the draws of epochs.
REFILL_DRAWS = 1_000_003


@dataclass(frozen=True, slots=True)
class BatchQuestion:
    """A question of a batch. `position` is its place in the step's batch, from 0; refills follow
    one after the other. `draw` tells apart the groups of a question that is drawn again.
    """

    question: Question
    draw: int
    position: int

    @property
    def group(self) -> GroupId:
        """The identity of its rollouts."""
        return GroupId(self.question.data_source, self.question.id, self.draw)


def read_training_questions(config: Config) -> list[Question]:
    """All questions of config.data.train in file order, only those of config.data.types if it is
    set. What a file repeats of an earlier one is left out, which is said.

    Raises:
        InvalidInputError: no question is left, or two files have different questions of one name,
            whose rollouts would be one group.
    """
    first: dict[str, tuple[Question, Path]] = {}
    for path in map(resolve_data, config.data.train):
        repeated = 0
        for question in read_questions(path):
            known, earlier = first.setdefault(question.key, (question, path))
            if known != question:
                raise InvalidInputError(
                    f"{path}: expected ids that differ from those of {earlier}, got question "
                    f"{question.key!r} with other content; rename one, or give the records of each "
                    'file their own "data_source"'
                )
            repeated += known is not question
        if repeated:
            are = agreeing(
                repeated, "question is in an earlier file", "questions are in earlier files"
            )
            say(f"data.train: {path}: {are}, and left out here")
    questions = [question for question, _ in first.values()]
    wanted = config.data.types
    selected = [question for question in questions if not wanted or question.type in wanted]
    if not selected:
        types = ", ".join(sorted({question.type for question in questions}))
        raise InvalidInputError(
            f"data.types: no training question is of {wanted}; types are: {types}"
        )
    return selected


def fitting_questions(
    questions: Sequence[Question], protocol: SearchProtocol, config: Config
) -> tuple[list[Question], str]:
    """The questions whose prompts fit into rollout.max_prompt_tokens, and a sentence on the lengths
    of all prompts.

    Raises:
        InvalidInputError: a prompt is too long and data.too_long is error, or none fits.
    """
    limit = config.rollout.max_prompt_tokens
    found = measure_prompts(questions, protocol, limit)
    longest = f"{counted(found.longest, 'token')} (question {found.longest_question.id!r})"
    if not found.too_long:
        return list(questions), f"prompts have at most {longest}, the limit is {limit:,}"
    has = part_of(len(found.too_long), len(questions), "prompt", "has", "have")
    are = "is" if len(found.too_long) == 1 else "are"
    if config.data.too_long == "error" or len(found.too_long) == len(questions):
        raise InvalidInputError(
            f"rollout.max_prompt_tokens: {has} more than {counted(limit, 'token')}, "
            f"the longest {longest}, the first that of question {found.too_long[0].id!r}; raise "
            'it, or leave these questions out with data.too_long = "drop"'
        )
    dropped = {question.key for question in found.too_long}
    kept = [question for question in questions if question.key not in dropped]
    return (
        kept,
        f"{has} more than {counted(limit, 'token')} and {are} left out, the longest {longest}",
    )


def batch_of_step(questions: Sequence[Question], step: int, config: Config) -> list[BatchQuestion]:
    """The questions of training step `step` (from 1). Their draw is the epoch; every epoch is
    another permutation.
    """
    size, total = config.rollout.questions_per_step, len(questions)
    drawn = [divmod(index, total) for index in range((step - 1) * size, step * size)]
    orders = {
        epoch: np.random.default_rng([config.seed, epoch]).permutation(total)
        for epoch in {epoch for epoch, _ in drawn}
    }
    return [
        BatchQuestion(questions[int(orders[epoch][index])], epoch, position)
        for position, (epoch, index) in enumerate(drawn)
    ]


def refill_of_step(
    questions: Sequence[Question], step: int, refill: int, config: Config
) -> list[BatchQuestion]:
    """The questions of refill `refill` (from 1) of a step with dynamic sampling.

    No epoch has the same draws, so that a question that is drawn again gets other rollouts.
    """
    size, total = config.rollout.questions_per_step, len(questions)
    rng = np.random.default_rng([config.seed, REFILL_DRAWS, step, refill])
    order = rng.permutation(total)[: min(size, total)]
    return [
        BatchQuestion(questions[int(index)], REFILL_DRAWS * step + refill, position)
        for position, index in enumerate(order, refill * size)
    ]


def rollout_tasks(
    batch: Sequence[BatchQuestion], protocol: SearchProtocol, config: Config
) -> list[Task]:
    """One task per rollout: rollout.group_size of each question, or tree.roots where rollouts
    branch.

    Raises:
        InvalidInputError: a prompt is longer than rollout.max_prompt_tokens.
    """
    tasks = []
    tree = config.tree
    for drawn in batch:
        question, group = drawn.question, drawn.group
        prompt_ids = tuple(protocol.prompt_ids(question.question))
        if len(prompt_ids) > config.rollout.max_prompt_tokens:
            raise InvalidInputError(
                f"question {question.id!r}: its prompt has {counted(len(prompt_ids), 'token')}, "
                f"rollout.max_prompt_tokens is {config.rollout.max_prompt_tokens}; raise it or "
                "drop the question"
            )
        tasks += [
            Task(
                question,
                group,
                sample,
                prompt_ids,
                request_seed(config.seed, group, sample),
                branch=Branch() if tree.grows else None,
            )
            for sample in range(tree.roots if tree.grows else config.rollout.group_size)
        ]
    return tasks
