"""Processes take questions from each other; nothing that follows depends on who took which."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from typing import Any

import pytest
import torch.distributed as dist

from tspo_cli.config.load_config import load_config
from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.trajectory import CallFacts, GroupId, Trajectory, Turn
from tspo_cli.training.rl import sharing
from tspo_cli.training.rl.question_batches import BatchQuestion
from tspo_cli.training.rl.sharing import (
    ExpectedLengths,
    SharedQuestions,
    dealt,
    is_dynamic,
    returned,
    trajectory_of,
    trajectory_record,
)


def batch_of(texts: list[str]) -> list[BatchQuestion]:
    return [
        BatchQuestion(Question(f"q{place}", text, ("x",), "world"), 0, place)
        for place, text in enumerate(texts)
    ]


def test_auto_is_dynamic_with_vllm_alone() -> None:
    def dynamic(*settings: str) -> bool:
        return is_dynamic(load_config([], settings).rollout)

    assert not dynamic()
    assert dynamic("rollout.engine=vllm")
    assert dynamic("rollout.schedule=dynamic")
    assert not dynamic("rollout.engine=vllm", "rollout.schedule=static")


@pytest.mark.parametrize(("processes", "questions"), [(1, 5), (2, 9), (3, 2), (4, 40)])
def test_every_question_is_taken_once(processes: int, questions: int) -> None:
    batch = batch_of(["?"] * questions)
    store = dist.HashStore()
    taken: list[list[int]] = [[] for _ in range(processes)]
    shares = [
        SharedQuestions(dealt(batch, processes), number, store) for number in range(processes)
    ]
    for share in shares:
        share.name = f"test/{processes}/{questions}"

    def work(number: int) -> None:
        while (drawn := shares[number].take()) is not None:
            taken[number].append(drawn.position)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(place for places in taken for place in places) == list(range(questions))


def test_own_questions_come_first_then_those_of_the_one_with_the_most_left() -> None:
    batch = batch_of(["?"] * 9)
    store = dist.HashStore()
    slow, fast, other = (SharedQuestions(dealt(batch, 3), number, store) for number in range(3))
    for share in (slow, fast, other):
        share.name = "test/order"
    assert [share.take().position for share in (slow, other, other)] == [0, 2, 5]  # type: ignore[union-attr]
    places = [drawn.position for drawn in iter(fast.take, None) if drawn is not None]
    assert places == [1, 4, 7, 3, 6, 8], "its own, then two of the slow one, then the last"
    assert slow.take() is None
    assert other.take() is None


def group(question: str, *lengths: int) -> Any:
    turns = [[{"tokens": length // 2}, {"tokens": length - length // 2}] for length in lengths]
    return {"group": ["world", question, 0], "trajectories": [{"turns": row} for row in turns]}


def test_the_longest_expected_rollouts_come_first() -> None:
    lengths = ExpectedLengths()
    batch = batch_of(["who?", "who was the first of them?", "which?", "which river?"])
    order = [drawn.position for drawn in lengths.longest_first(batch)]
    assert order == [1, 3, 2, 0], "by their text where nothing is known"
    lengths.learn([group("q0", 90, 110), group("q2", 10, 10), group("q9")])
    order = [drawn.position for drawn in lengths.longest_first(batch)]
    assert order == [0, 1, 3, 2], "new ones count as the mean"
    lengths.learn([group("q0", 2)])
    assert [drawn.position for drawn in lengths.longest_first(batch)] == [2, 1, 3, 0]


def rollout(position: int, sample: int, score: float = 1.25) -> Trajectory:
    question = Question(
        f"q{position}", "wer? \ud83d", ("a", "b"), "world", ("p1",), "full", "one_hop", {"n": 1}
    )
    search = Turn(
        action_ids=(5, 6),
        logprobs=(-0.1234567890123456789, -math.inf),
        finish_reason="stop",
        kind="search",
        text="<search> x </search>",
        query="x",
        hits=(Hit("p1", '"T"\ntext', score),),
        feedback="f",
        feedback_ids=(7,),
        weight_version=3,
        mixed=True,
        call=CallFacts("bad", 2, True),
    )
    answer = Turn((8,), (-1e-30,), "eos", "answer", "y", answer="y", eos_dropped=True, thought="t")
    turns = (search, answer, Turn((), (), "stop", "search", "", query="z", search_error="503"))
    return Trajectory(
        GroupId("world", f"q{position}", 0), sample, question, (1, 2), turns, 3, True, "refused"
    )


@pytest.mark.parametrize("score", [1.25, 0.1 + 0.2, -1e300, 5e-324])
def test_a_trajectory_travels_to_the_bit(score: float) -> None:
    one = rollout(1, 2, score)
    back = trajectory_of(json.loads(json.dumps(trajectory_record(one))))
    assert back == one
    assert back.question.extra == one.question.extra
    assert isinstance(back.group, GroupId)


def test_rollouts_go_to_whose_question_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes: the first made all but one of the rollouts."""
    batch = batch_of(["?"] * 4)
    made = [
        [rollout(place, sample) for place in (3, 0, 2) for sample in (0, 1)],
        [rollout(1, sample) for sample in (1, 0)],
    ]
    sent: dict[int, Any] = {}

    def as_process(number: int) -> list[Trajectory]:
        monkeypatch.setattr(sharing, "rank", lambda: number)
        monkeypatch.setattr(sharing, "world_size", lambda: 2)

        def gather(value: Any) -> list[Any]:
            sent[number] = json.loads(json.dumps(value))
            return [sent.get(0, []), sent.get(1, [])]

        monkeypatch.setattr(sharing, "gather_json", gather)
        return returned(batch, made[number])

    as_process(0), as_process(1)
    first, second = as_process(0), as_process(1)
    places = [[(one.question.id, one.sample) for one in part] for part in (first, second)]
    assert places == [
        [("q0", 0), ("q0", 1), ("q2", 0), ("q2", 1)],
        [("q1", 0), ("q1", 1), ("q3", 0), ("q3", 1)],
    ]
    assert Counter(first + second) == Counter(made[0] + made[1])
    assert [len(part) for part in sent.values()] == [2, 0], "only what is another's is sent"
