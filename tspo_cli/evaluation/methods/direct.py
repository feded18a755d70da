"""Answer without any retrieval: what the model knows by itself."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.data.schema import Question
from tspo_cli.evaluation.methods.base import Method, Setting, make_task
from tspo_cli.rollout.agent import Task


def tasks(questions: Sequence[Question], setting: Setting) -> list[Task]:
    """One prompt without search per question."""
    protocol = setting.protocol
    prefill = protocol.style.prefill
    return [make_task(one, protocol.direct_ids(one.question), setting.seed, prefill=prefill) for one in questions]


DIRECT = Method("direct", tasks, searches=False, retrieves=False)
