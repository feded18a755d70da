"""tspo inspect from the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.commands.report_cli import app, tspo, tspo_json
from tests.reporting.tree import HOSTILE, make_tree
from tspo_cli import runs
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError


def test_inspect_shows_turns(demo: Path) -> None:
    done = tspo("inspect", demo / "tspo", "--class", "near-miss", "--limit", 1)
    assert done.exit_code == 0
    assert "near-miss · outcome 0" in done.stdout
    assert "gold answer first occurs here" in done.stdout
    assert "»Silver Brook«" in done.stdout
    assert "advantage" in done.stdout
    assert "success" not in done.stdout
    assert "rollouts of step 4: 1 of" in done.stderr


def test_inspect_reads_no_markup_from_a_run(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, hostile=True, steps=4)
    done = tspo("inspect", demo / "grpo", "--limit", 0)
    assert done.exit_code == 0
    assert "[red]x[/red] [/]" in done.stdout
    assert tspo_json("inspect", demo / "grpo", "--group", 1)["groups"][0]["question"].endswith(
        HOSTILE
    )


def test_inspect_chooses_step_group_and_question(demo: Path) -> None:
    found = tspo_json("inspect", demo / "tspo", "--step", 2, "--group", 3)
    assert (found["step"], found["dataset"]) == (2, None)
    assert [group["group"] for group in found["groups"]] == [["world", "q2", 2]]
    assert (
        tspo_json("inspect", demo / "tspo", "--question", "world/q5")["groups"][0]["group"][1]
        == "q5"
    )
    assert len(tspo_json("inspect", demo / "tspo", "--limit", 2)["groups"]) == 2
    assert len(tspo_json("inspect", demo / "tspo", "--limit", 0)["groups"]) == 10


def test_inspect_shows_evaluated_items(demo: Path) -> None:
    found = tspo_json("inspect", demo / "tspo", "--eval", "--question", "t39")
    assert (found["dataset"], found["step"]) == ("test", 4)
    assert found["groups"][0]["trajectories"][0]["class"] == "miss"
    assert tspo_json("inspect", demo / "warmstart")["dataset"] == "test"


def test_a_damaged_record_is_answered_with_what_examines_the_run(
    demo: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(demo / "tspo", tmp_path / "run"))
    damaged = run / "rollouts" / "step_000004.jsonl.gz"
    damaged.write_bytes(b"no")
    (next((run / "eval" / "step_000004").glob("*.items.jsonl.gz"))).write_bytes(b"no")
    for words in ([run], [demo / "tspo", "--compare", run]):
        failure = tspo("inspect", *words).exception
        assert isinstance(failure, InvalidInputError)
        assert str(failure).startswith(f"{run}/")
        assert str(failure).endswith(f"; `tspo doctor {run}` examines the run")


def test_a_run_that_has_kept_nothing_says_where_trajectories_come_from(
    demo: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(demo / "warmstart", tmp_path / "run"))
    shutil.rmtree(run / "eval")
    for option in ([], ["--eval"], ["--dataset", "test"]):
        failure = tspo("inspect", run, *option).exception
        assert isinstance(failure, MissingResourceError)
        assert str(failure).startswith(f"{run}: no trajectories yet: a step of RL keeps")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--step", "9"], MissingResourceError, "kept steps: 1, 2, 3, 4"),
        (["--group", "11"], MissingResourceError, "groups 1 to 10"),
        (["--group", "0"], MissingResourceError, "groups 1 to 10"),
        (["--question", "nope"], MissingResourceError, "not among these 10 groups"),
        (["--class", "nope"], MissingResourceError, "there are: "),
        (["--dataset", "nope"], MissingResourceError, "it has rollouts, items of test"),
        (["--dataset", "nope"], MissingResourceError, "tspo eval: tspo inspect DIR, its --out"),
        (["--limit", "-1"], UsageError, "--limit -1"),
    ],
)
def test_inspect_says_what_is_wrong(
    demo: Path, arguments: list[str], error: type[Exception], words: str
) -> None:
    done = tspo("inspect", demo / "tspo", *arguments)
    assert isinstance(done.exception, error)
    assert words in str(done.exception)


def test_inspect_filters_lists_and_finds(demo: Path) -> None:
    lines = tspo("inspect", demo / "tspo", "--eval", "--list").stdout.splitlines()
    assert lines[0].split() == ["#", "right", "searches", "class", "id", "question", "answer"]
    assert len(lines) == 41
    assert lines[1].split()[:5] == ["1", "1/1", "2", "success", "test/t0"]
    assert max(map(len, lines)) <= 120
    invalid = tspo_json("inspect", demo / "tspo", "--eval", "--invalid", "--limit", 0)["groups"]
    assert [group["group"][1] for group in invalid] == [f"t{index}" for index in range(16, 40)]
    near = tspo_json("inspect", demo / "tspo", "--near-miss", "--limit", 0)["groups"]
    assert {one["class"] for group in near for one in group["trajectories"]} == {"near-miss"}
    found = tspo_json("inspect", demo / "tspo", "--eval", "--find", "NUMBER t7 brook")["groups"]
    assert [group["group"][1] for group in found] == ["t7"]


def test_inspect_compares_two_runs(demo: Path) -> None:
    found = tspo_json("inspect", demo / "tspo", "--compare", demo / "grpo", "--limit", 0)
    assert found["right"] == {"both": 6, "first": 10, "second": 0, "none": 24}
    assert found["p_mcnemar"] == pytest.approx(2 * 0.5**10)
    assert [one["id"] for one in found["questions"]] == [f"test/t{index}" for index in range(6, 16)]
    done = tspo("inspect", demo / "tspo", "--compare", demo / "grpo", "--limit", 1)
    assert "40 questions: both right 6, only tspo 10, only grpo 0, both wrong 24" in done.stderr
    left, right = next(line for line in done.stdout.splitlines() if "outcome" in line).split(
        "rollout 1 · "
    )[1:]
    assert left.startswith("success · outcome 1")
    assert right.startswith("miss · outcome 0")
    both = tspo_json(
        "inspect", demo / "tspo", "--compare", demo / "grpo", "--only", "both", "--limit", 0
    )
    assert len(both["questions"]) == 6


def test_inspect_browses(demo: Path) -> None:
    said = "".join(
        f"{answer}\n"
        for answer in ("", "p", "l", "4", "/number 8", "/nowhere", "what", "²", 5000 * "9", "q")
    )
    done = CliRunner().invoke(app, ["inspect", str(demo / "tspo"), "--browse"], input=said)
    assert done.exception is None, done.exception
    headings = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("world/q")]
    assert headings == [f"world/q{index}" for index in (0, 1, 0, 0, 3, 8, 8, 8, 8, 8)]
    assert "--find nowhere: no question" in done.stderr
    assert "what: not one of these" in done.stderr
    assert "²: not one of these" in done.stderr


def test_inspect_exports_trec_files_that_give_the_recall(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    path = demo / "tspo" / "eval" / "step_000004" / "test.items.jsonl.gz"
    # Both searches return p9; p1 and p2 come from one search each, p8 from none.
    gold = [["p1"], ["p9", "p8"], ["p8"], []]
    items = [
        item | {"supporting_ids": gold[place % 4]}
        for place, item in enumerate(runs.read_jsonl_gz(path))
    ]
    runs.write_jsonl_gz(path, items)
    run, qrels = tmp_path / "out.run", tmp_path / "out.qrels"
    done = tspo("inspect", demo / "tspo", "--trec-run", run, "--qrels", qrels)
    assert done.exception is None, done.exception
    assert f"{run}: 120 lines, 40 questions" in done.stderr
    lines = [line.split() for line in run.read_text().splitlines()]
    assert [line[:5] for line in lines[:3]] == [
        ["t0", "Q0", "p1", "1", "3"], ["t0", "Q0", "p9", "2", "2"], ["t0", "Q0", "p2", "3", "1"],
    ]  # fmt: skip
    wanted: dict[str, set[str]] = {}
    for question, zero, passage, grade in (line.split() for line in qrels.read_text().splitlines()):
        assert (zero, grade) == ("0", "1")
        wanted.setdefault(question, set()).add(passage)
    found = {name: {line[2] for line in lines if line[0] == name} for name in wanted}
    assert len(wanted) == 30
    assert (
        sum(len(wanted[name] & found[name]) / len(wanted[name]) for name in wanted)
        == 10 * 1 + 10 * 0.5
    )


def test_inspect_says_in_json_what_it_exported(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "out.run"
    assert tspo_json("inspect", demo / "tspo", "--trec-run", run)["files"] == [
        {"path": str(run), "lines": 120, "questions": 40}
    ]


def test_inspect_replaces_no_other_file_by_a_trec_file(demo: Path, tmp_path: Path) -> None:
    mine = tmp_path / "dev.jsonl"
    for option in ("--trec-run", "--qrels"):
        mine.write_text('{"id": "q", "question": "who wrote it?"}\n')
        done = tspo("inspect", demo / "tspo", option, mine)
        assert isinstance(done.exception, InvalidInputError)
        assert str(done.exception) == f"{mine}: is no TREC file; delete it, or choose another place"
    out = tmp_path / "out.run"
    for _ in range(2):
        assert tspo("inspect", demo / "tspo", "--trec-run", out).exception is None


def test_inspect_refuses_what_trec_cannot_carry(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    done = tspo("inspect", demo / "tspo", "--qrels", tmp_path / "x")
    assert isinstance(done.exception, MissingResourceError)
    assert "supporting_ids" in str(done.exception)
    path = demo / "tspo" / "eval" / "step_000004" / "test.items.jsonl.gz"
    runs.write_jsonl_gz(path, [item | {"id": "a b"} for item in runs.read_jsonl_gz(path)])
    done = tspo("inspect", demo / "tspo", "--trec-run", tmp_path / "x")
    assert isinstance(done.exception, InvalidInputError)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "first"],
        ["--near-miss", "--class", "miss"],
        ["--list", "--browse"],
        ["--compare", "x", "--only", "y"],
    ],
)
def test_inspect_refuses_contradictions(demo: Path, arguments: list[str]) -> None:
    assert isinstance(tspo("inspect", demo / "tspo", *arguments).exception, UsageError)


def test_inspect_asks_when_an_id_or_data_set_is_ambiguous(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    path = demo / "tspo" / "rollouts" / "step_000004.jsonl.gz"
    groups = list(runs.read_jsonl_gz(path))
    runs.write_jsonl_gz(path, [*groups, groups[0] | {"group": ["other", "q0", 4]}])
    done = tspo("inspect", demo / "tspo", "--question", "q0")
    assert isinstance(done.exception, UsageError)
    assert "other/q0, world/q0" in str(done.exception)
    items = demo / "tspo" / "eval" / "step_000004" / "test.items.jsonl.gz"
    items.with_name("more.items.jsonl.gz").write_bytes(items.read_bytes())
    done = tspo("inspect", demo / "tspo", "--eval")
    assert isinstance(done.exception, UsageError)
    assert "--dataset: more, test" in str(done.exception)


def test_inspect_needs_a_run(tmp_path: Path) -> None:
    assert isinstance(tspo("inspect", tmp_path).exception, MissingResourceError)
