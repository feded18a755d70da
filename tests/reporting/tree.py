"""A run tree as training leaves it: a warm start, GRPO and TSPO runs, one of them still running."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.config.schema import Config
from tspo_cli.evaluation.statistics.estimates import estimate_share

HOSTILE = "<script>alert(1)</script> [red]x[/red] [/] & $5 50% a_b {c} | # \\ ~ ^ \" ' `"
QUESTIONS = 40

ITEM: dict[str, Any] = {
    "id": "a",
    "question": "?",
    "golden_answers": ["x"],
    "em": 1.0,
    "f1": 1.0,
    "trajectory": {"turns": []},
}
"""An answered question of an evaluation."""


def make_tree(root: Path, *, hostile: bool = False, steps: int = 20) -> Path:
    """`root/demo` with warmstart (sft), grpo and tspo (finished) and tspo-b (running)."""
    demo = root / "demo"
    make_run(
        demo / "warmstart",
        Config.model_validate({"kind": "sft", "optimizer": {"lr": 3e-3}}),
        100,
        {100: 0.1},
    )
    for name, algorithm, end in (("grpo", "grpo", 0.15), ("tspo", "tspo", 0.4)):
        config = Config.model_validate(
            {
                "seed": 1,
                "credit": {"algorithm": algorithm},
                "optimizer": {"lr": 2e-4},
                "train": {"steps": steps},
            }
        )
        make_run(
            demo / name,
            config,
            steps,
            {0: 0.1, steps // 2: (0.1 + end) / 2, steps: end},
            hostile=hostile,
        )
    running = Config.model_validate({"seed": 2, "train": {"steps": steps}})
    make_run(demo / "tspo-b", running, steps // 2, {0: 0.1}, state="running")
    return demo


def make_run(
    path: Path,
    config: Config,
    steps: int,
    scores: dict[int, float],
    *,
    state: str = "finished",
    hostile: bool = False,
) -> None:
    """One run directory with a fixed content; `scores` is the share of correct answers by step."""
    draw = random.Random(path.name)
    path.mkdir(parents=True)
    runs.write_json(path / runs.CONFIG_NAME, config.section_dict())
    runs.set_status(path, state, steps, 1)
    (path / "command.txt").write_text(
        f"tspo train {path.name}.toml --out runs/{path.name}\n", encoding="utf-8"
    )
    rl = config.kind == "rl"
    for step in range(1, steps + 1):
        done = step / steps
        shares = {
            "all_correct": 0.1 * done,
            "mixed": 0.2 + 0.2 * done,
            "all_wrong_near_miss": 0.3,
            "all_miss": 0.0,
        }
        shares["all_miss"] = 1 - sum(shares.values())
        metrics: dict[str, Any] = {
            "step": step,
            "loss": 2 * draw.random(),
            "lr": config.optimizer.lr,
        }
        if rl:
            metrics |= {f"groups/{name}": share for name, share in shares.items()}
            metrics |= {
                "groups/zero_signal_grpo": 0.7 - 0.2 * done,
                "groups/recovered_by_folr": 0.3 * draw.random(),
            }
            metrics |= {
                "reward": 0.1 + 0.3 * done * draw.random(),
                "searches": 2 + done,
                "entropy": 1 - 0.5 * done,
            }
        runs.append_jsonl(path / "metrics.jsonl", metrics)
        runs.append_jsonl(
            path / "timings.jsonl", {"step": step, "rollout": 1.0, "update": 0.5, "total": 1.5}
        )
        if rl:
            groups = [_group(step, index, draw, hostile) for index in range(10)]
            runs.write_jsonl_gz(path / "rollouts" / f"{runs.step_name(step)}.jsonl.gz", groups)
    for step, share in scores.items():
        _evaluation(path / "eval" / runs.step_name(step), share, hostile)


def make_evaluation(
    path: Path,
    method: str,
    items: list[dict[str, Any]],
    *,
    dataset: str = "test",
    model: str = "model",
    seed: int = 0,
    intervals: bool = False,
) -> None:
    """A folder as `tspo eval` leaves it: the summary, the scores and the items of one data set.

    `intervals`: of em, as versions of today record them.
    """
    mean = {key: sum(item[key] for item in items) / len(items) for key in ("em", "f1")}
    scores = {
        "dataset": dataset,
        "method": method,
        "k": 3,
        "n": len(items),
        **mean,
        "searches": 2.0,
    }
    if intervals:
        share = estimate_share([item["em"] for item in items])
        scores |= {"em_low": share.low, "em_high": share.high}
    config = Config.model_validate({"seed": seed}).section_dict()
    command = f"tspo eval {model} --data {dataset} --method {method}"
    earlier = runs.read_json(path / "eval.json")["results"] if (path / "eval.json").exists() else []
    summary = {
        "model": model,
        "method": method,
        "command": command,
        "results": [*earlier, scores],
        "config": config,
    }
    runs.write_jsonl_gz(path / f"{dataset}.items.jsonl.gz", items)
    runs.write_json(path / f"{dataset}.json", scores)
    runs.write_json(path / "eval.json", summary)


def question(index: int, hostile: bool) -> dict[str, Any]:
    text = f"Which river flows through the town where Ada Holt number {index} was born?"
    golds = ["Silver Brook", f"the {index}th Brook"]
    return {
        "question": text + (HOSTILE if hostile else ""),
        "golden_answers": golds + ([HOSTILE] if hostile else []),
    }


def trajectory(
    sample: int, answer: str | None, *, hit: int | None, hostile: bool = False
) -> dict[str, Any]:
    """Two searches and an answer; the gold answer is retrieved at turn `hit` (1 or 2, None
    never).
    """
    turns = []
    for number, query in enumerate(("Ada Holt birthplace", "Marrowick river"), start=1):
        found = (
            " The Silver Brook runs by the mill."
            if number == hit
            else " A market is held each spring."
        )
        contents = f'"Marrowick {number}"\nMarrowick is a town in the north.{found}' + (
            HOSTILE if hostile else ""
        )
        turns.append(
            _turn("search", f"<think>I need more.</think><search>{query}</search>", query=query)
            | {
                "passages": [
                    {"id": f"p{number}", "contents": contents, "score": 7.5},
                    {
                        "id": "p9",
                        "contents": '"Ada Holt"\nAda Holt was a painter born in Marrowick.',
                        "score": 5.1,
                    },
                ],
                "feedback": f"<information>{contents}</information>",
                "feedback_tokens": 40,
            }
        )
    kind = "invalid" if answer is None else "answer"
    turns.append(
        _turn(
            kind,
            f"<answer>{answer}</answer>" if answer else "hm" + HOSTILE * hostile,
            answer=answer,
        )
    )
    return {
        "sample": sample,
        "answer": answer,
        "failed": False,
        "prompt_tokens": 120,
        "turns": turns,
    }


def _turn(
    kind: str, text: str, query: str | None = None, answer: str | None = None
) -> dict[str, Any]:
    return {
        "kind": kind,
        "text": text,
        "query": query,
        "answer": answer,
        "finish_reason": "stop",
        "tokens": 17,
        "logprob": -3.2,
        "passages": [],
        "feedback": "",
        "feedback_tokens": 0,
        "search_error": None,
    }


def _group(step: int, index: int, draw: random.Random, hostile: bool) -> dict[str, Any]:
    trajectories = []
    for sample in range(3):
        kind = ("miss", "near-miss", "success")[draw.randrange(3)]
        hit = None if kind == "miss" else draw.choice((1, 2))
        answer = (
            "Silver Brook"
            if kind == "success"
            else HOSTILE
            if hostile
            else draw.choice(("Old Canal", None))
        )
        rewards = (
            [1.0] * 3
            if kind == "success"
            else [0.5 * (hit is not None and turn <= hit) for turn in (1, 2, 3)]
        )
        trajectories.append(
            trajectory(sample, answer, hit=hit, hostile=hostile)
            | {
                "outcome": float(kind == "success"),
                "class": kind,
                "first_occurrence": hit,
                "turn_rewards": rewards,
                "advantages": [round(reward - 0.4, 3) for reward in rewards],
            }
        )
    classes = {trajectory["class"] for trajectory in trajectories}
    near = "all-wrong with near-miss" if "near-miss" in classes else "all-miss"
    return {
        "step": step,
        "group": ["world", f"q{index}", step],
        **question(index, hostile),
        "group_class": ("all-correct" if classes == {"success"} else "mixed")
        if "success" in classes
        else near,
        "trajectories": trajectories,
    }


def _evaluation(path: Path, share: float, hostile: bool) -> None:
    correct = round(share * QUESTIONS)
    items = []
    for index in range(QUESTIONS):
        right = index < correct
        items.append(
            {
                "id": f"t{index}",
                **question(index, hostile),
                "em": float(right),
                "f1": float(right),
                "answer_in_retrieved": float(right),
                "gold_recall": None,
                "searches": 2,
                "trajectory": trajectory(
                    0, "Silver Brook" if right else None, hit=1 if right else None, hostile=hostile
                ),
            }
        )
    scores = {
        "dataset": "test",
        "method": "search_r1",
        "n": QUESTIONS,
        "em": correct / QUESTIONS,
        "f1": correct / QUESTIONS,
        "answer_in_retrieved": correct / QUESTIONS,
        "gold_recall": None,
        "searches": 2.0,
        "invalid_share": 0.0125,
        "no_answer_share": 1 - correct / QUESTIONS,
    }
    runs.write_json(path / "test.json", scores)
    runs.write_jsonl_gz(path / "test.items.jsonl.gz", items)
