"""Searches that a retriever refuses: the reason is said, before and after the answers."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from tests.evaluation.reader_server import Reader
from tests.retrieval.server.live_server import serving
from tspo_cli.commands.app import app
from tspo_cli.retrieval.index.searcher import open_index


def test_a_search_for_more_than_a_server_gives(
    films: Path, reader: tuple[Reader, str], tmp_path: Path
) -> None:
    data = tmp_path / "films.jsonl"
    question = json.loads((films / "films.jsonl").read_text().splitlines()[0])
    data.write_text("".join(json.dumps(question | {"id": name}) + "\n" for name in ("1", "2")))
    with serving(open_index(films / "index"), max_k=4) as url:
        words = ["eval", "reader", "--endpoint", reader[1], "--retriever", url, "--data", data]
        words += ["--out", tmp_path / "evals", "--set", "retriever.k=1"]
        words += ["--set", "rollout.exclude_seen=true"]
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        assert "warning: films: rollout.exclude_seen: a search asks for 5 passages" in done.output
        assert "2 of 2 questions count as wrong because one of their searches failed" in done.output
        assert done.output.count("topk: expected at most 4, got 5") == 2
        words += ["--set", "rollout.max_searches=3", "--overwrite"]
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        assert "failed" not in done.output
