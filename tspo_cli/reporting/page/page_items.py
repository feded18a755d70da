"""The items of a page: a small index that a browser reads at once, and packed pieces that it
unpacks on demand.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tspo_cli.reporting.rendering.cut_passages import passage_parts, shortened
from tspo_cli.reporting.rendering.marks import marked
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.sources.trajectories import Source, read_groups, sources
from tspo_cli.rollout.trajectory import INVALID
from tspo_cli.text.printable import printable_values
from tspo_cli.text.strict_json import json_text

GROUPS_PER_STEP = 8
LONGEST_TEXT = 4000
PER_CHUNK = 25
_LONGEST_FACT = 300


@dataclass(slots=True)
class ItemData:
    """`index` is JSON: {"questions": [[id, question, golds]], "sources": [...]}; `chunks` are gzip
    in base64.

    A source is {"run", "label", "kind": "rollouts" | "items", "of", "chunk", "per", "rows"}: its
    first chunk, how many groups a chunk holds, how many groups there were, and one row per group,
    [question, class, rollouts]. A rollout is [outcome, f1, class, searches, invalid turns, tokens,
    answer, queries].
    """

    index: dict[str, Any]
    chunks: list[str] = field(default_factory=list)


def item_data(views: Iterable[RunView], items: int) -> ItemData:
    """What a page keeps of these runs, in recorded order, so that two runs keep the same questions.

    Of every run the first `GROUPS_PER_STEP` groups of the first, middle and last kept step of
    training, and the first `items` (0: all) of the first and last evaluation. Texts are cut to
    `LONGEST_TEXT` characters.
    """
    data = ItemData({"questions": [], "sources": []})
    known: dict[str, int] = {}
    for view in views:
        for source in _selected(view):
            _add(data, known, view, source, items)
    return data


def _selected(view: RunView) -> list[Source]:
    found = sources(view)
    rollouts = [source for source in found if source.dataset is None]
    kept = {0, len(rollouts) // 2, len(rollouts) - 1}
    steps = [source.step for source in found if source.dataset is not None]
    evaluated = [
        source
        for source in found
        if source.dataset is not None and source.step in (min(steps), max(steps))
    ]
    # The end of a run is what most people look for.
    return sorted(evaluated, key=lambda source: -source.step) + [
        source for place, source in enumerate(rollouts) if place in kept
    ]


def _add(data: ItemData, known: dict[str, int], view: RunView, source: Source, items: int) -> None:
    is_rollouts = source.dataset is None
    groups = iter(read_groups(view, source))
    cap = GROUPS_PER_STEP if is_rollouts else items or None
    first = len(data.chunks)
    rows = []
    for some in _batches(islice(groups, cap), PER_CHUNK):
        rows += [
            [_question(data, known, group), group.get("group_class"), _facts(group)]
            for group in some
        ]
        data.chunks.append(_packed([_group(group) for group in some]))
    data.index["sources"].append(
        {
            "run": view.name,
            "label": source.label,
            "kind": "rollouts" if is_rollouts else "items",
            "of": len(rows) + sum(1 for _ in groups),
            "chunk": first,
            "per": PER_CHUNK,
            "rows": rows,
        }
    )


def _batches(groups: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(groups, size)):
        yield some


def _question(data: ItemData, known: dict[str, int], group: dict[str, Any]) -> int:
    """The place of the group's question in the index, where each question stands once."""
    name = "/".join(map(str, group["group"][:2]))
    key = json.dumps([name, group["question"]])
    if key not in known:
        known[key] = len(known)
        golds = [_cut(gold, _LONGEST_FACT) for gold in group["golden_answers"]]
        data.index["questions"].append([name, _cut(group["question"]), golds])
    return known[key]


def _facts(group: dict[str, Any]) -> list[list[Any]]:
    return [
        [
            _number(trajectory.get("outcome")),
            _number(trajectory.get("f1")),
            trajectory.get("class"),
            sum(turn["kind"] == "search" for turn in trajectory["turns"]),
            sum(turn["kind"] in INVALID for turn in trajectory["turns"]),
            sum(turn.get("tokens") or 0 for turn in trajectory["turns"]),
            None if trajectory.get("answer") is None else _cut(trajectory["answer"], _LONGEST_FACT),
            "\n".join(
                _cut(turn["query"], _LONGEST_FACT)
                for turn in trajectory["turns"]
                if turn.get("query")
            ),
        ]
        for trajectory in group["trajectories"]
    ]


def _group(group: dict[str, Any]) -> dict[str, Any]:
    golds = group["golden_answers"]
    return {
        "draw": group["group"][2],
        "rollouts": [_rollout(trajectory, golds) for trajectory in group["trajectories"]],
    }


def _rollout(trajectory: dict[str, Any], golds: Sequence[str]) -> dict[str, Any]:
    rewards = trajectory.get("turn_rewards") or []
    advantages = trajectory.get("advantages") or []
    branch = trajectory.get("branch")
    return {
        "sample": trajectory.get("sample"),
        "branch": [branch["parent"], branch["turns"]] if branch else None,
        "failed": bool(trajectory.get("failed")),
        "first": trajectory.get("first_occurrence"),
        "prompt": trajectory.get("prompt_tokens"),
        "turns": [
            _turn(turn, golds)
            | {"reward": _at(rewards, place), "advantage": _at(advantages, place)}
            for place, turn in enumerate(trajectory["turns"])
        ],
    }


def _turn(turn: dict[str, Any], golds: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": turn["kind"],
        "text": marked(_cut(turn.get("text") or ""), golds),
        "query": None if turn.get("query") is None else _cut(turn["query"], _LONGEST_FACT),
        "tokens": turn.get("tokens"),
        "logprob": _number(turn.get("logprob")),
        "passages": [
            [
                passage["id"],
                _number(passage.get("score")),
                marked(_cut(shown), golds),
                marked(_cut(hidden), golds) if hidden else None,
            ]
            for passage, shown, hidden in passage_parts(turn)
        ],
        "feedback": marked(_cut(turn.get("feedback") or ""), golds),
        "masked": turn.get("feedback_tokens"),
        "error": turn.get("search_error"),
    }


def _at(values: Sequence[Any], place: int) -> float | None:
    return _number(values[place]) if place < len(values) else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(float(value), 4)


def _cut(text: str, longest: int = LONGEST_TEXT) -> str:
    return shortened(text, longest)


def _packed(groups: list[dict[str, Any]]) -> str:
    text = json_text(printable_values(groups), compact=True)
    packed = gzip.compress(text.encode(), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode("ascii")
