"""A judge's verdict as the outcome that is trained: checked before, asked once, never guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from tests.conftest import Playground, run_tspo
from tests.evaluation.openai_server import serve
from tspo_cli.config.load_config import load_config
from tspo_cli.credit.assign import assign_credit
from tspo_cli.credit.laboratory.group_file import read_group
from tspo_cli.data.question import Question
from tspo_cli.digests import json_digest
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.evaluation.judging.judge import Judgement
from tspo_cli.evaluation.judging.training_judge import LOST_IN_A_ROW, TrainingJudge
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn
from tspo_cli.runs import append_jsonl, read_json, read_jsonl, read_jsonl_gz
from tspo_cli.training.problems import refuse_problems
from tspo_cli.training.rl.judged_rollouts import Asked, Opinion, judge_metrics, judged


class Judging:
    """A server whose judge says of (accepted answers, answer) what `says` makes of them."""

    def __init__(self, says: Callable[[list[str], str], str | JSONResponse]) -> None:
        self.says, self.seen = says, list[tuple[str, str]]()

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        def chat(body: dict[str, Any]) -> Any:
            prompt = body["messages"][0]["content"]
            fence = prompt.split("between the two lines ")[1].split(". Nothing")[0]
            answer = prompt.split(f"\n{fence}\n")[1]
            golds = prompt.split("Accepted answers: ")[1].splitlines()[0]
            self.seen.append((prompt, answer))
            said = self.says(golds.split("; "), answer)
            if not isinstance(said, str):
                return said
            return {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}

        return app


def by_length(golds: list[str], answer: str) -> str:
    """Right are answers of an odd number of letters; about some of the others it is at a loss."""
    if golds == ["Paris"]:
        return "correct" if answer == "Paris" else "incorrect"
    if len(answer) % 4 == 0:
        return "I cannot say."
    return "correct" if len(answer) % 2 else "incorrect"


def command(playground: Playground, run: Path, url: str, **more: object) -> list[object]:
    values = {"credit__outcome": "judge", "judge__model": "m", "judge__url": url}
    values |= {"judge__retries": 0, "eval__every": 0, "eval__at_start": "false"}
    values |= {"eval__data": "[]", "checkpoint__every": 1, "rollout__max_new_tokens": 32, **more}
    return ["train", "tiny/grpo", "--out", run, *playground.settings(**values)]


@pytest.mark.slow
def test_verdicts_are_trained_and_failures_are_not(playground: Playground, tmp_path: Path) -> None:
    run, server = tmp_path / "run", Judging(by_length)
    with serve(server.app()) as url:
        done = run_tspo(*command(playground, run, url, train__steps=2))
        assert done.code == 0, done.err
        asked = len(server.seen)
        again = run_tspo(*command(playground, run, url, train__steps=3), "--resume")
        assert again.code == 0, again.err
    first, later = server.seen[2:asked], server.seen[asked + 2 :]
    assert len(set(first) | set(later)) == len(first) + len(later) > 0, "each answer once"
    rows, lost = read_jsonl(run / "metrics.jsonl"), 0
    for row in rows:
        groups = list(read_jsonl_gz(run / f"rollouts/step_{row['step']:06d}.jsonl.gz"))
        rollouts = [(group, one) for group in groups for one in group["trajectories"]]
        for group, one in rollouts:
            wanted = by_length(group["golden_answers"], one["answer"]) if one["answer"] else ""
            assert one["outcome"] == one["judge"] == float(wanted == "correct")
        failed = [one for group in groups for one in group.get("failed", [])]
        lost += len(failed)
        assert all(one["judge_error"] == "the judge's reply cannot be read" for one in failed)
        assert all(one["answer"] and len(one["answer"]) % 4 == 0 for one in failed)
        assert row["failed_share"] == pytest.approx(len(failed) / 12)
        assert row["reward"] == pytest.approx(row["judge"])
        gap = 1 - row["judge_agreement"]
        assert row["judge_only"] + row["em_only"] == pytest.approx(gap)
    assert lost > 0
    assert any(row["judge"] > row["em"] for row in rows)
    said = run_tspo("report", run).err
    assert "trained with the verdicts of m, which agree with exact match on" in said
    credited = run_tspo("credit", run, "-a", "grpo", "--json")
    assert credited.code == 0, credited.err


@pytest.mark.slow
def test_a_judge_that_is_not_there_ends_the_command_before_the_run(
    playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for flags in ([], ["--dry-run"]):
        done = run_tspo(*command(playground, run, "http://127.0.0.1:9/v1"), *flags)
        assert done.code == 5, done.err
        assert len(done.err.strip().splitlines()) == 1
        assert "judge http://127.0.0.1:9/v1" in done.err
    assert not run.exists()

    def dies(golds: list[str], answer: str) -> str | JSONResponse:
        if golds != ["Paris"]:
            return JSONResponse({"error": {"message": "out of memory"}}, 503)
        return by_length(golds, answer)

    with serve(Judging(dies).app()) as url:
        done = run_tspo(*command(playground, run, url, train__steps=2))
    assert done.code == 5, done.err
    assert "the judge of credit.outcome answers nothing" in done.err
    assert read_json(run / "status.json")["state"] == "failed"
    assert not read_jsonl(run / "metrics.jsonl"), "no score was made up"


def rollout(answer: str | None, **more: Any) -> Trajectory:
    turn = Turn((5,), (-1.0,), "eos", "answer", "x", answer=answer)
    question = Question("q", "who?", ("Ada",), "world")
    return Trajectory(GroupId("world", "q", 0), 0, question, (1, 2), (turn,), **more)


def test_who_is_asked_and_who_has_failed() -> None:
    class Sceptic:
        def __init__(self) -> None:
            self.asked: list[Asked] = []

        def opinions(self, asked: Any) -> list[Opinion]:
            self.asked += asked
            known = {"Ada": Opinion(1.0), "Bob": Opinion(0.0)}
            return [known.get(answer, Opinion(None, "refused")) for _, _, answer in asked]

    judge = Sceptic()
    rollouts = [rollout("Ada"), rollout(None), rollout(" "), rollout("?"), rollout("Bob"),
                rollout("Ada", late=True)]  # fmt: skip
    found = judged(rollouts, judge)
    assert [one.verdict for one in found] == [1.0, 0.0, 0.0, None, 0.0, None]
    assert [one.failed for one in found] == [False, False, False, True, False, True]
    assert found[3].judge_error == "refused"
    assert judge.asked == [("who?", ("Ada",), answer) for answer in ("Ada", "?", "Bob")]


def test_agreement_with_exact_match() -> None:
    pairs = [("Ada", 1.0), ("Ada L.", 1.0), ("Ada", 0.0), ("Bob", 0.0)]
    rollouts: list[Any] = [{"answer": answer, "judge": verdict} for answer, verdict in pairs]
    group: Any = {"golden_answers": ["Ada"], "trajectories": rollouts}
    wanted = {"judge": 0.5, "judge_agreement": 0.5, "judge_only": 0.25, "em_only": 0.25}
    assert judge_metrics([group]) == wanted
    rollouts += [{"answer": None, "judge": 0.0}] * 4
    assert judge_metrics([group]) == wanted | {"judge": 0.25}, "no answer is no agreement"


def test_one_lost_request_is_one_failed_rollout_and_many_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Deaf:
        digest, config = "d", load_config([], ["judge.model=m"]).judge

        def ask(self, question: str, golds: tuple[str, ...], answer: str) -> Judgement:
            if answer.startswith("lost"):
                raise RemoteServiceError("timeout of one request")
            return Judgement("correct")

    def asked(*answers: str) -> list[Asked]:
        return [("who?", ("Ada",), answer) for answer in answers]

    judge: Any = TrainingJudge(Deaf(), tmp_path, 0)  # type: ignore[arg-type]
    judge.opinions(asked("Ada"))
    for number in range(LOST_IN_A_ROW - 1):
        known, lost = judge.opinions(asked("Ada", f"lost {number}"))
        assert (known.verdict, lost.verdict) == (1.0, None)
        assert "timeout" in lost.problem
    told = "the judge gave no verdict on 1 of 2 answers (timeout of one request)"
    assert capsys.readouterr().err.count(told) == 1, "once"
    judge.opinions(asked("Bob", "lost again"))
    judge.opinions(asked(*(f"lost {number}" for number in range(LOST_IN_A_ROW - 1))))
    with pytest.raises(RemoteServiceError, match="answers nothing"):
        judge.opinions(asked("lost at last"))


@pytest.mark.parametrize(
    ("silent", "problem"),
    [(Judgement("", "refused: status 400"), "refused: status 400"),
     (Judgement("", "cut by judge.max_tokens"), "cut by judge.max_tokens"),
     (Judgement("I cannot say."), "the judge's reply cannot be read")],
)  # fmt: skip
def test_a_judge_that_gives_no_verdict_on_anything_is_gone(
    tmp_path: Path, silent: Judgement, problem: str
) -> None:
    class Filters:
        digest, config, sound = "d", load_config([], ["judge.model=m"]).judge, False

        def ask(self, question: str, golds: tuple[str, ...], answer: str) -> Judgement:
            refuses = answer.startswith("bad") and not self.sound
            return silent if refuses else Judgement("correct")

    def asked(question: str, *answers: str) -> list[Asked]:
        return [(question, ("Ada",), answer) for answer in answers]

    server, folder = Filters(), tmp_path / "judge"
    judge: Any = TrainingJudge(server, folder, 0)  # type: ignore[arg-type]
    bad = [f"bad {number}" for number in range(LOST_IN_A_ROW + 1)]
    for opinion in judge.opinions(asked("a filtered question?", *bad)):
        assert opinion.problem == problem
    judge.opinions([*asked("who?", *bad[:1]), *asked("where?", "good")])
    kept = read_jsonl(folder / "replies_0.jsonl")
    assert len(kept) == len(bad) + 2, "one question, or some of them: refused for good"
    some = [*asked("who?", *bad[1:]), *asked("where?", *bad)]
    with pytest.raises(RemoteServiceError, match="answers nothing"):
        judge.opinions(some)
    server.sound = True
    again: Any = TrainingJudge(server, folder, 0)  # type: ignore[arg-type]
    assert all(opinion.verdict == 1.0 for opinion in again.opinions(some)), "asked again"


def test_a_process_keeps_its_own_reply(tmp_path: Path) -> None:
    class Other:
        digest = "d"

    key = json_digest(("who?", ("Ada",), "Ada"))
    for process, reply in enumerate(("correct", "incorrect", "correct")):
        line = {"judge": "d", "key": key, "reply": reply, "problem": ""}
        append_jsonl(tmp_path / f"replies_{process}.jsonl", line)
    second: Any = TrainingJudge(Other(), tmp_path, 1)  # type: ignore[arg-type]
    assert second.known[key].reply == "incorrect"


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize(
    "change", [{"judge": None}, {"key": 5}, {"reply": ["correct"]}, {"problem": None}], ids=str
)
def test_a_reply_in_another_form_is_named(
    tmp_path: Path, process: int, change: dict[str, Any]
) -> None:
    class Other:
        digest = "d"

    good = {"judge": "d", "key": "k", "reply": "correct", "problem": ""}
    append_jsonl(tmp_path / "replies_1.jsonl", good)
    append_jsonl(tmp_path / "replies_1.jsonl", good | change)
    with pytest.raises(InvalidInputError, match=r"replies_1.jsonl:2"):
        TrainingJudge(Other(), tmp_path, process)  # type: ignore[arg-type]


def test_processes_ask_about_an_answer_once(tmp_path: Path) -> None:
    class Counts:
        digest, config, asked = "d", load_config([], ["judge.model=m"]).judge, 0

        def ask(self, question: str, golds: tuple[str, ...], answer: str) -> Judgement:
            self.asked += 1
            return Judgement("correct")

    server = Counts()
    one: Any = TrainingJudge(server, tmp_path, 0)  # type: ignore[arg-type]
    two: Any = TrainingJudge(server, tmp_path, 1)  # type: ignore[arg-type]
    entries: list[Asked] = [("who?", ("Ada",), answer) for answer in ("Ada", "Bob")]
    for judge in (one, two, one):
        assert [opinion.verdict for opinion in judge.opinions(entries)] == [1.0, 1.0]
    assert server.asked == len(entries)


def test_a_group_file_may_have_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "group.json"
    said: list[Any] = [
        {"answer": "Lovelace", "judge": 1, "turns": [{}]},
        {"answer": "Bob", "turns": [{}]},
    ]
    group = {"question": "Who?", "golden_answers": ["Ada"], "trajectories": said}
    config = load_config([], ["credit.outcome=judge", "credit.algorithm=grpo"]).credit
    file.write_text(json.dumps(group))
    with pytest.raises(InvalidInputError, match="needs a verdict on each answer"):
        assign_credit(read_group(file), config)
    said[1]["judge"] = 0
    file.write_text(json.dumps(group))
    outcomes = [one.outcome for one in assign_credit(read_group(file), config).trajectories]
    assert outcomes == [1.0, 0.0]
    said[1]["judge"] = "yes"
    file.write_text(json.dumps(group))
    with pytest.raises(InvalidInputError, match='"judge" to be 1 or 0'):
        read_group(file)


def test_a_judge_must_be_named() -> None:
    base = ["data.train=['q.jsonl']", "model.path=m", "retriever.index=i", "credit.outcome=judge"]
    refuse_problems(load_config([], [*base, "judge.url=http://x/v1", "judge.model=m"]))
    for some in ([], ["judge.url=http://x/v1"], ["judge.model=m"]):
        with pytest.raises(InvalidInputError, match=r"set judge\.url and"):
            refuse_problems(load_config([], [*base, *some]))
