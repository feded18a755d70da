"""One self-contained HTML page: settings, results, curves, and trajectories to read."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from itertools import islice
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tspo_cli.reporting.curves import figures
from tspo_cli.reporting.groups import Source, read_groups, sources
from tspo_cli.reporting.marks import marked
from tspo_cli.reporting.tables import columns_of
from tspo_cli.reporting.views import RunView, unfinished

GROUPS_PER_STEP = 8
ITEMS_PER_EVALUATION = 16
LONGEST_TEXT = 4000


def render_page(views: Sequence[RunView], records: list[dict[str, Any]]) -> str:
    """The page of these runs, with `records` of their result rows. It loads nothing; equal runs give equal text."""
    environment = Environment(
        loader=PackageLoader("tspo_cli.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = _asset("page.js")
    columns = [column for column in columns_of(records) if column.heading != "learning rate"]
    return environment.get_template("page.html.j2").render(
        script=Markup(script),
        style=Markup(_asset("page.css")),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=metadata.version("tspo-cli"),
        runs=[_settings(view) for view in views],
        credit=_credit_options(views),
        notes=unfinished(views),
        headings=[(column.heading, column.numeric) for column in columns],
        rows=[[(column.cell(record), column.numeric) for column in columns] for record in records],
        baselines=sorted({record["baseline"] for record in records if record.get("baseline")}),
        figures=[(figure, Markup(figure.svg)) for figure in figures(views)],
        data=Markup(_script_json(viewer_data(views))),
        groups_per_step=GROUPS_PER_STEP,
        items_per_evaluation=ITEMS_PER_EVALUATION,
    )


def viewer_data(views: Iterable[RunView]) -> dict[str, Any]:
    """What the viewer shows: {"runs": [{"name", "sources": [...]}], "passages": [...]}; passages are kept once.

    Of every run: the rollouts of the first, middle and last kept step and the items of its first and last evaluation,
    each up to a fixed number in recorded order. A passage is a list of pieces, in turn plain and gold.
    """
    pool: dict[tuple[str, ...], int] = {}
    runs = [
        {"name": view.name, "sources": [_source(view, source, pool) for source in _selected(view)]} for view in views
    ]
    return {"runs": runs, "passages": list(pool)}


def _selected(view: RunView) -> list[Source]:
    found = sources(view)
    rollouts = [source for source in found if source.dataset is None]
    kept = {0, len(rollouts) // 2, len(rollouts) - 1}
    steps = [source.step for source in found if source.dataset is not None]
    return [source for index, source in enumerate(rollouts) if index in kept] + [
        source for source in found if source.dataset is not None and source.step in (min(steps), max(steps))
    ]


def _source(view: RunView, source: Source, pool: dict[tuple[str, ...], int]) -> dict[str, Any]:
    cap = GROUPS_PER_STEP if source.dataset is None else ITEMS_PER_EVALUATION
    groups = iter(read_groups(view, source))
    shown = [_group(group, pool) for group in islice(groups, cap)]
    return {
        "label": source.label,
        "kind": "rollouts" if source.dataset is None else "eval",
        "of": len(shown) + sum(1 for _ in groups),
        "groups": shown,
    }


def _group(group: dict[str, Any], pool: dict[tuple[str, ...], int]) -> dict[str, Any]:
    golds = group["golden_answers"]
    return {
        "id": "/".join(map(str, group["group"][:2])),
        "draw": group["group"][2],
        "question": group["question"],
        "golds": golds,
        "class": group.get("group_class"),
        "trajectories": [_trajectory(one, golds, pool) for one in group["trajectories"]],
    }


def _trajectory(one: dict[str, Any], golds: Sequence[str], pool: dict[tuple[str, ...], int]) -> dict[str, Any]:
    rewards = one.get("turn_rewards") or []
    advantages = one.get("advantages") or []
    return {
        "sample": one.get("sample"),
        "answer": one.get("answer"),
        "failed": bool(one.get("failed")),
        "outcome": _number(one.get("outcome")),
        "class": one.get("class"),
        "first": one.get("first_occurrence"),
        "turns": [
            _turn(turn, _at(rewards, index), _at(advantages, index), golds, pool)
            for index, turn in enumerate(one["turns"])
        ],
    }


def _turn(
    turn: dict[str, Any],
    reward: float | None,
    advantage: float | None,
    golds: Sequence[str],
    pool: dict[tuple[str, ...], int],
) -> dict[str, Any]:
    passages = [
        [passage["id"], pool.setdefault(tuple(marked(_cut(passage["contents"]), golds)), len(pool))]
        for passage in turn.get("passages") or []
    ]
    feedback = "" if passages else _cut(turn.get("feedback") or "")
    return {
        "kind": turn["kind"],
        "text": marked(_cut(turn.get("text") or ""), golds),
        "query": turn.get("query"),
        "tokens": turn.get("tokens"),
        "passages": passages,
        "feedback": marked(feedback, golds) if feedback else None,
        "error": turn.get("search_error"),
        "reward": reward,
        "advantage": advantage,
    }


def _at(values: Sequence[Any], index: int) -> float | None:
    return _number(values[index]) if index < len(values) else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(float(value), 4)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"


def _settings(view: RunView) -> dict[str, Any]:
    seconds = sum(record.get("total") or 0.0 for record in view.timings())
    return {
        "name": view.name,
        "algorithm": view.algorithm,
        "seed": view.setting("seed"),
        "lr": view.setting("optimizer.lr"),
        "steps": view.setting("train.steps"),
        "reached": view.status.get("step"),
        "state": view.state,
        "minutes": round(seconds / 60, 1) if seconds else None,
        "questions": view.setting("rollout.questions_per_step"),
        "group_size": view.setting("rollout.group_size"),
        "command": view.command,
    }


def _credit_options(views: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """Options of credit, loss and search as (key, value of each run), of all runs that use them."""
    sections = ("credit", "loss", "retriever.k", "rollout.max_searches", "rollout.temperature")
    keys: dict[str, None] = {}
    for view in views:
        for section in sections:
            value = view.setting(section)
            keys |= dict.fromkeys(f"{section}.{key}" for key in value) if isinstance(value, dict) else {section: None}
    return [(key, [_shown(view, key) for view in views]) for key in keys if any(_shown(view, key) for view in views)]


def _shown(view: RunView, key: str) -> str:
    unused = view.algorithm == "sft" and key.startswith(("credit.", "rollout.", "retriever."))
    value = None if unused else view.setting(key)
    return "" if value is None else str(value)


def _script_json(value: Any) -> str:
    """JSON that can neither end its script element nor begin a comment or another one."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    unsafe: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    return text.translate(str.maketrans(unsafe))


def _asset(name: str) -> str:
    return resources.files("tspo_cli.reporting").joinpath("templates", name).read_text(encoding="utf-8")
