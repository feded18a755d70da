"""What `tspo eval` and its worker processes say to each other: one JSON object per line.

To a worker: first a `Job`, then portions of questions. From a worker: `ready` with facts of its
engine; for each portion its items, then `done`; or `error` and `code`, and it ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.data.question import Question
from tspo_cli.evaluation.methods.examples import Example


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker does with questions: `method` is the name of one. `quiet`: it says warnings
    and errors only.
    """

    config: Config
    method: str
    examples: tuple[Example, ...] = ()
    quiet: bool = False

    def line(self) -> str:
        """The job as a line."""
        examples = [asdict(example) for example in self.examples]
        config = self.config.section_dict()
        more = {"method": self.method, "examples": examples, "quiet": self.quiet}
        return json.dumps({"config": config, **more})

    @classmethod
    def of(cls, line: str) -> Job:
        """The job of a line."""
        record = json.loads(line)
        config = Config.model_validate_json(json.dumps(record["config"]))
        examples = tuple(Example(**example) for example in record["examples"])
        return cls(config, record["method"], examples, record["quiet"])


def portion_line(questions: Sequence[Question]) -> str:
    """A portion as a line."""
    return json.dumps([asdict(question) for question in questions])


def portion_of(line: str) -> list[Question]:
    """The questions of a line."""
    return [_question(record) for record in json.loads(line)]


def _question(record: Mapping[str, Any]) -> Question:
    lists = {name: tuple(record[name]) for name in ("golden_answers", "supporting_ids")}
    return Question(**{**record, **lists})
