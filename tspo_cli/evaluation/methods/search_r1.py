"""The trained agent itself: several searches, Search-R1's tags."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.data.schema import Question
from tspo_cli.evaluation.methods.base import Method, Setting, make_task
from tspo_cli.rollout.agent import Task


def tasks(questions: Sequence[Question], setting: Setting) -> list[Task]:
    """One search prompt per question."""
    return [make_task(one, setting.protocol.prompt_ids(one.question), setting.seed) for one in questions]


SEARCH_R1 = Method("search_r1", tasks, searches=True, retrieves=True)
