"""Demonstrations from what a policy did: which trajectories, and that their texts stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tspo_cli.commands.data import app
from tspo_cli.runs import read_jsonl_gz, write_jsonl_gz
from tspo_cli.training.sft.demonstration_file import read_demonstrations

OLD_RUN = Path(__file__).resolve().parents[2] / "fixtures" / "run_0_1_0"
PASSAGE = {"id": "7", "contents": '"Old Light"\nAda Brook built it.', "score": 1.0}
SHOWN = 'Doc 1(Title: "Old Light") Ada Brook built it.'


def search(query: str = "builder", shown: str = SHOWN, **more: Any) -> dict[str, Any]:
    turn = {
        "kind": "search",
        "text": f"<think>Who?</think>\n<search>{query}</search>",
        "query": query,
        "passages": [PASSAGE],
        "feedback": f"\n\n<information>{shown}</information>\n\n",
    }
    return turn | more


def answer(text: str = "Ada Brook", **more: Any) -> dict[str, Any]:
    return {"kind": "answer", "text": f"<answer>{text}</answer>", "answer": text} | more


def item(name: str, *turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    trajectory = {"turns": list(turns), "answer": turns[-1].get("answer"), "failed": False}
    return {
        "id": name,
        "data_source": "own",
        "question": f"Who built {name}?",
        "golden_answers": ["Ada Brook"],
        "supporting_ids": ["7"],
        "em": 1.0,
        "trajectory": trajectory | more,
    }


def take(source: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["demos-from", str(source), "--out", str(out), *options])


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_items_by_class_with_what_the_model_read(tmp_path: Path) -> None:
    invalid = {"kind": "invalid", "text": "I do not know", "feedback": "\nMy previous action"}
    call = {"kind": "search", "text": "<tool_call>{}</tool_call>", "query": "x", "feedback": "y"}
    items = [
        item("good", search(), answer()),
        item("cut", search(shown="Doc 1(Title: "), answer()),
        item("kept apart", search(), answer(thought="It says so.")),
        item("near", search(), answer("Bob")),
        item("miss", answer("Bob")),
        item("endless", search(), search()),
        item("clumsy", invalid, search(), answer()),
        item("calls", call, answer()),
        item("lost", search(), answer(), failed=True),
    ]
    write_jsonl_gz(tmp_path / "own.items.jsonl.gz", items)
    out = tmp_path / "demos.jsonl"
    done = take(tmp_path, out, "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout) == {
        "trajectories": 9,
        "kept": 3,
        "not_used": {
            "other_class": 3,
            "failed": 1,
            "invalid_turn": 1,
            "other_protocol": 1,
        },
        "path": str(out),
    }
    good, cut, apart = records(out)
    assert good["turns"][0]["text"] == search()["text"], "as it was sampled"
    assert good["turns"][0]["passages"] == [{"id": "7", "contents": PASSAGE["contents"]}]
    assert (good["id"], good["supporting_ids"]) == ("good", ["7"])
    assert cut["turns"][0]["shown"] == "Doc 1(Title: "
    assert apart["turns"][1]["text"] == "<think> It says so. </think> <answer>Ada Brook</answer>"
    assert len(read_demonstrations(out)) == 3
    near = tmp_path / "near.jsonl"
    assert take(tmp_path, near, "--class", "near-miss", "--class", "miss").exit_code == 0
    assert [record["id"] for record in records(near)] == ["near", "miss"]
    clumsy = tmp_path / "clumsy.jsonl"
    assert take(tmp_path, clumsy, "--keep-invalid").exit_code == 0
    assert [turn.is_invalid for turn in read_demonstrations(clumsy)[3].turns] == [
        True,
        False,
        False,
    ]
    assert "is already there" in str(take(tmp_path, out).exception)


def test_one_of_a_question_and_none_twice(tmp_path: Path) -> None:
    rollouts = [
        {"turns": [search(), search("again"), answer()], "answer": "Ada Brook", "class": "success"},
        {"turns": [search(), answer()], "answer": "Ada Brook", "class": "success"},
        {"turns": [search(), answer()], "answer": "Ada Brook", "class": "success"},
        {"turns": [search(), answer("Bob")], "answer": "Bob", "class": "near-miss"},
    ]
    group = {
        "group": ["own", "q1", 0],
        "question": "Who built it?",
        "golden_answers": ["Ada Brook"],
        "trajectories": rollouts,
    }
    file = tmp_path / "rollouts" / "step_000001.jsonl.gz"
    write_jsonl_gz(file, [group])
    out = tmp_path / "demos.jsonl"
    done = take(file, out, "--json")
    assert json.loads(done.stdout)["not_used"] == {
        "other_class": 1,
        "repeated": 1,
        "more_of_its_question": 1,
    }
    assert [len(record["turns"]) for record in records(out)] == [2]
    assert take(file, out, "--per-question", "0", "--class", "all", "--overwrite").exit_code == 0
    assert [len(record["turns"]) for record in records(out)] == [3, 2, 2]


@pytest.mark.parametrize(
    ("name", "count", "why"),
    [
        ("rl", 18, "(17 without an answer at the end, 1 with an invalid or cut turn (--keep"),
        ("evals", 8, "(8 with an invalid or cut turn (--keep-invalid takes invalid ones))"),
    ],
)
def test_real_records_of_an_earlier_version(
    name: str, count: int, why: str, tmp_path: Path
) -> None:
    """An untrained policy made them. What --keep-invalid cannot help is named first."""
    done = take(OLD_RUN / name, tmp_path / "demos.jsonl", "--class", "all")
    assert f"none of {count} trajectories" in str(done.exception)
    assert why in str(done.exception)


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    assert "no such run" in str(take(tmp_path / "none", tmp_path / "o.jsonl").exception)
    assert "neither rollouts" in str(take(tmp_path, tmp_path / "o.jsonl").exception)
    file = tmp_path / "own.items.jsonl.gz"
    good = item("good", search(), answer())
    write_jsonl_gz(file, [good, good | {"em": "often"}])
    assert f"{file}:2: not a record" in str(take(tmp_path, tmp_path / "o.jsonl").exception)
    write_jsonl_gz(file, [item("miss", answer("Bob"))])
    assert "(1 of another class (--class names those to take))" in str(
        take(tmp_path, tmp_path / "o.jsonl").exception
    )
    assert not (tmp_path / "o.jsonl").exists()
    assert len(list(read_jsonl_gz(file))) == 1


def test_a_doubled_question_or_group_is_refused(tmp_path: Path) -> None:
    """As reports refuse it: whoever joined two files would count its demonstrations twice."""
    out = tmp_path / "demos.jsonl"
    file = tmp_path / "own.items.jsonl.gz"
    good, other = item("good", search(), answer()), item("good", search("again"), answer())
    write_jsonl_gz(file, [good, item("else", search(), answer()), other])
    said = str(take(tmp_path, out, "--per-question", "0").exception)
    assert f"{file}:3: expected each question once, got 'good' of line 1 again" in said
    group = {
        "group": ["own", "q1", 0],
        "question": "Who built it?",
        "golden_answers": ["Ada Brook"],
        "trajectories": [{"turns": [search(), answer()], "answer": "Ada Brook"}],
    }
    file = tmp_path / "run" / "rollouts" / "step_000002.jsonl.gz"
    write_jsonl_gz(file, [group, {**group, "group": ["own", "q1", 1]}])
    assert take(file, out).exit_code == 0
    write_jsonl_gz(file, [group, group])
    for source in (file, tmp_path / "run"):
        said = str(take(source, out, "--overwrite").exception)
        assert f"{file}:2: expected each group once, got own/q1/0 of line 1 again" in said
