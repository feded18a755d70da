"""`tspo eval` cuts a question that is too long, counts it and says so; templates by value."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.runs import read_jsonl_gz

LONG = "which town is near " + "the river of " * 400 + "Bako"


def test_a_question_that_is_too_long_is_cut_and_counted(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    lines = (playground.world / "test.jsonl").read_text("utf-8").splitlines()[:3]
    record = json.loads(lines[0])
    lines.append(json.dumps(record | {"id": "long", "question": LONG}))
    (tmp_path / "some.jsonl").write_text("\n".join(lines))
    options = ["eval", playground.model, "--data", "some.jsonl", "--index", playground.index]
    done = tspo(
        *options, "--out", "o", "--method", "rag", "--json",
        "--set", "rollout.max_observation_tokens=400", cwd=tmp_path,
    )  # fmt: skip
    (scores,) = json.loads(done.out)["results"]
    assert scores["cut_prompts"] == 1
    assert "1 of 4 prompts shows only a part" in done.err
    (path,) = (tmp_path / "o").glob("*.items.jsonl.gz")
    items = list(read_jsonl_gz(path))
    assert [item.get("cut_prompt", False) for item in items] == [False, False, False, True]
    assert items[-1]["question"] == LONG
    agent = json.loads((playground.model / "tspo_agent.json").read_text("utf-8"))
    limit = agent["rollout"]["max_prompt_tokens"]
    sizes = [item["trajectory"]["prompt_tokens"] for item in items]
    assert sizes[-1] > limit > max(sizes[:-1]) - 400, "passages have a limit of their own"


def test_a_context_without_room_for_passages_and_a_reply_is_refused(
    playground: Playground, tmp_path: Path
) -> None:
    done = run_tspo(
        "eval", playground.model, "--data", playground.world / "test.jsonl",
        "--index", playground.index, "--method", "rag", "--set", "model.max_context=40",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 3
    assert "do not fit into a context of 40" in done.err


def test_an_evaluation_is_not_resumed_with_another_template(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    model, template = tmp_path / "model", tmp_path / "sub" / "t.txt"
    shutil.copytree(playground.model, model)
    template.parent.mkdir()
    template.write_text("Question: {question}\n")
    options = ["eval", "model", "--data", playground.world / "test.jsonl", "--limit", 3]
    options += ["--index", playground.index, "--set", f"rollout.prompt={template}", "--out", "o"]
    tspo(*options, cwd=tmp_path)
    tspo(*options, "--resume", cwd=tmp_path)
    moved = template.rename(tmp_path / "moved.txt")
    tspo(*options, "--resume", "--set", f"rollout.prompt={moved}", cwd=tmp_path)
    moved.write_text("Q: {question}\n")
    done = run_tspo(*options, "--resume", "--set", f"rollout.prompt={moved}", cwd=tmp_path)
    assert done.code == 3
    assert "was made with other settings" in done.err
