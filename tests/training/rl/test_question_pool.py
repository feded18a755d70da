"""Questions without a signal come back, and those that are too easy or too hard come less often."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Playground, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_jsonl, read_jsonl_gz
from tspo_cli.training.problems import refuse_problems
from tspo_cli.training.rl.question_batches import BatchQuestion, batch_of_step
from tspo_cli.training.rl.question_pool import QuestionPool

QUESTIONS = [Question(f"q{number}", "who?", ("x",), "world") for number in range(12)]
BASE = ["rollout.questions_per_step=4", "rollout.group_size=2", "seed=3"]


def pool_of(*settings: str, lines: list[Any] | None = None) -> QuestionPool:
    return QuestionPool(QUESTIONS, load_config([], [*BASE, *settings]), lines or [])


def records(batch: list[BatchQuestion], rights: dict[str, int], signal: set[str]) -> list[Any]:
    """Groups of two rollouts; `rights` are right, those of `signal` taught something."""
    return [
        {
            "group": list(drawn.group),
            "level": "trajectory" if drawn.question.id in signal else "none",
            "trajectories": [
                {"class": "success" if place < rights.get(drawn.question.id, 0) else "miss"}
                for place in range(2)
            ],
        }
        for drawn in batch
    ]


def names(batch: list[BatchQuestion]) -> list[str]:
    return [drawn.question.id for drawn in batch]


def run(pool: QuestionPool, steps: int, rights: dict[str, int], signal: set[str]) -> list[Any]:
    """Steps in which some questions are always answered, and some always teach."""
    lines = []
    for step in range(1, steps + 1):
        batch = pool.draw(step)
        line, _ = pool.settle(step, batch, records(batch, rights, signal))
        lines.append((line, batch))
    return lines


def test_with_a_signal_everywhere_the_order_is_that_of_the_epochs() -> None:
    config = load_config([], [*BASE, "data.recycle=0.5"])
    pool = pool_of("data.recycle=0.5")
    everything = {question.id for question in QUESTIONS}
    for step, (_, batch) in enumerate(run(pool, 7, {}, everything), start=1):
        assert batch == batch_of_step(QUESTIONS, step, config)


def test_a_question_without_a_signal_comes_back_later_and_a_stated_number_of_times() -> None:
    pool = pool_of("data.recycle=0.5", "data.recycle_after=2", "data.recycle_most=2")
    dull = names(batch_of_step(QUESTIONS, 1, load_config([], BASE)))[0]
    signal = {question.id for question in QUESTIONS} - {dull}
    made = run(pool, 9, {}, signal)
    froms = [
        (line["step"], entry["from"], entry["draw"])
        for line, _ in made
        for entry in line["drawn"]
        if entry["question"][1] == dull
    ]
    back = [(step, draw - 1_000_000_007) for step, source, draw in froms if source == "recycled"]
    assert froms[0] == (1, "order", 0)
    assert back[0] == (3, 0), "after two steps"
    assert back[-1][1] == 1, "twice"
    assert len(back) == 2
    draws = [draw for _, _, draw in froms]
    assert len(set(draws)) == len(draws), "each draw has rollouts of its own"
    assert all(len(batch) == 4 for _, batch in made), "as many rollouts as without"
    places = [[drawn.position for drawn in batch] for _, batch in made]
    assert places == [[0, 1, 2, 3]] * 9


def test_at_most_a_share_of_a_step_comes_back_and_the_oldest_first() -> None:
    pool = pool_of("data.recycle=0.5", "data.recycle_after=1", "data.recycle_most=9")
    made = run(pool, 5, {}, set())
    back = [sum(entry["from"] == "recycled" for entry in line["drawn"]) for line, _ in made]
    assert back == [0, 2, 2, 2, 2]
    first = names(made[0][1])
    assert names(made[1][1])[:2] == first[:2]
    assert names(made[2][1])[:2] == first[2:], "before those that have waited less"


def test_the_curriculum_leaves_out_what_is_always_right_or_always_wrong() -> None:
    pool = pool_of("data.curriculum=difficulty", "data.curriculum_floor=0.05")
    easy, even = {q.id: 2 for q in QUESTIONS[:6]}, {q.id: 1 for q in QUESTIONS[6:]}
    made = run(pool, 40, easy | even, set())
    count = Counter(name for _, batch in made for name in names(batch))
    assert sum(count[name] for name in even) > 4 * sum(count[name] for name in easy)
    assert min(count[q.id] for q in QUESTIONS) >= 1, "all are new once"
    skipped = {name for line, _ in made for _, name in line["skipped"]}
    assert skipped <= set(easy)
    assert all(len(batch) == 4 for _, batch in made)


def test_a_draw_leaves_out_each_question_once_at_most() -> None:
    pool = pool_of("data.curriculum=difficulty", "data.curriculum_floor=1e-4")
    made = run(pool, 8, {question.id: 2 for question in QUESTIONS}, set())
    assert all(len(batch) == 4 for _, batch in made)
    assert max(len(line["skipped"]) for line, _ in made) == len(QUESTIONS)


@pytest.mark.parametrize("settings", [
    ["data.recycle=0.25", "data.recycle_after=1"],
    ["data.curriculum=difficulty"],
    ["data.recycle=0.5", "data.recycle_after=2", "data.curriculum=difficulty"],
])  # fmt: skip
def test_a_pool_is_what_its_lines_make_of_it(settings: list[str]) -> None:
    rights = {question.id: number % 3 for number, question in enumerate(QUESTIONS)}
    signal = {question.id for question in QUESTIONS[::3]}
    whole = pool_of(*settings)
    lines = [json.loads(json.dumps(line)) for line, _ in run(whole, 8, rights, signal)]
    again = pool_of(*settings, lines=lines)
    for step in range(9, 20):
        batches = [pool.draw(step) for pool in (whole, again)]
        assert batches[0] == batches[1]
        found = [pool.settle(step, batches[0], records(batches[0], rights, signal))
                 for pool in (whole, again)]  # fmt: skip
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.recycle=0.5", "rollout.one_step_off=true"], "data.recycle: rollout.one_step_off"),
        (["data.curriculum=difficulty", "rollout.dynamic_sampling=true"], "data.curriculum: roll"),
        (["data.recycle=0.1"], "0.1 of 8 questions is less than one"),
        (["data.recycle=0.5", "credit.algorithm=reinforce_pp"], "reinforce_pp has no groups"),
        (["data.recycle=0.5", "kind=rejection_sampling",
          "credit.algorithm=rejection_sampling"], 'is for kind = "rl"'),
        (["kind=sft", "data.world=w", "data.recycle=0.5"], "its epochs promise every demonstr"),
        (["kind=sft", "data.world=w", "data.curriculum=difficulty"], "data.curriculum: kind"),
    ],
)  # fmt: skip
def test_pools_that_make_no_sense_are_refused(settings: list[str], message: str) -> None:
    base = ["data.train=['q.jsonl']", "model.path=m", "retriever.index=i"]
    with pytest.raises(InvalidInputError) as caught:
        refuse_problems(load_config([], [*base, *settings]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_that_is_killed_draws_the_same_questions(
    playground: Playground, tmp_path: Path
) -> None:
    """Everything is dull here, so that questions come back from the third step on."""
    values = {"data__recycle": 0.5, "data__recycle_after": 1, "data__curriculum": "difficulty"}
    values |= {"eval__every": 0, "eval__limit": 3, "checkpoint__every": 2}
    arguments = ["train", "tiny/grpo", *playground.settings(**{"train__steps": 4, **values})]
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    done = run_tspo(*arguments, "--out", straight)
    assert done.code == 0, done.err
    short = ["train", "tiny/grpo", *playground.settings(**{"train__steps": 3, **values})]
    assert run_tspo(*short, "--out", parts).code == 0
    # As a kill leaves it: the third step's records are there, its checkpoint is not.
    for name in ("checkpoints/step_000003", "model", "status.json"):
        path = parts / name
        if path.is_dir():
            for file in sorted(path.rglob("*"), reverse=True):
                file.unlink()
            path.rmdir()
        else:
            path.unlink()
    (parts / "digests.jsonl").unlink()
    resumed = run_tspo(*arguments, "--out", parts, "--resume")
    assert "resume after step 2" in resumed.err
    for name in ("metrics.jsonl", "questions.jsonl", "checkpoints/step_000004/state.safetensors"):
        assert (parts / name).read_bytes() == (straight / name).read_bytes(), name
    lines, rows = (read_jsonl(straight / name) for name in ("questions.jsonl", "metrics.jsonl"))
    for line, row in zip(lines, rows, strict=True):
        groups = list(read_jsonl_gz(straight / f"rollouts/step_{line['step']:06d}.jsonl.gz"))
        drawn = [[*entry["question"], entry["draw"]] for entry in line["drawn"]]
        assert drawn == [group["group"] for group in groups]
        assert row["questions/recycled"] == sum(one["from"] == "recycled" for one in line["drawn"])
    assert rows[-1]["questions/recycled"] >= 1
    table = run_tspo("report", straight, "--table", "questions", "--format", "json")
    (record,) = json.loads(table.out)["questions"]
    assert record["recycled"] == sum(row["questions/recycled"] for row in rows)
    # The questions of an evaluation are those of a run without a pool.
    items = list(read_jsonl_gz(straight / "eval/step_000004/world.items.jsonl.gz"))
    test = (playground.world / "test.jsonl").read_text().splitlines()[:3]
    assert [item["id"] for item in items] == [json.loads(line)["id"] for line in test]
