"""A run that is resumed is evaluated on the questions that it was evaluated on before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.runs import eval_steps, read_json

Tspo = Callable[..., Finished]


def test_a_run_is_not_resumed_with_other_evaluation_questions(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    """They gave one curve, and one best policy, of scores that cannot be compared."""
    data, run = tmp_path / "dev.jsonl", tmp_path / "run"
    lines = (playground.world / "test.jsonl").read_bytes().splitlines(keepends=True)[:4]
    data.write_bytes(b"".join(lines))
    common = {"eval__data": f"['{data}']", "eval__every": 1, "checkpoint__every": 1}

    def words(steps: int, **more: object) -> list[str]:
        return ["tiny/tspo", *playground.settings(**common, train__steps=steps, **more)]

    tspo("train", *words(1), "--out", run)
    data.write_bytes(b"".join(reversed(lines)))
    for more in ([], ["--dry-run"]):
        done = run_tspo("train", *words(2), "--out", run, "--resume", *more)
        assert done.code == 3, done.err
        (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert "was evaluated on other questions of world (eval.data)" in line
        assert [step for step, _ in eval_steps(run)] == [0, 1]
    changed = tspo("train", *words(2, eval__limit=3), "--out", run, "--resume")
    assert "eval.limit (was " in changed.err
    assert read_json(run / "eval" / "step_000002" / "world.json")["n"] == 3
