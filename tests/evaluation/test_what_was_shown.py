"""Metrics and pages tell what the model was shown from what was retrieved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tests.evaluation.conftest import Speaker
from tspo_cli.config.schema import Config, EvalConfig, RetrieverConfig, RolloutConfig
from tspo_cli.credit.folr import first_occurrence
from tspo_cli.credit.from_rollouts import group_from_record
from tspo_cli.data.question import Question
from tspo_cli.evaluation.answering.runner import EvalSetup, evaluate_items
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.methods import METHODS
from tspo_cli.evaluation.metrics import summarize
from tspo_cli.reporting.inspect.transcript import transcript
from tspo_cli.reporting.page.page_items import _turn
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index

FILLER = "Nothing of note happened in that town for many years. " * 40
QUESTION = Question("q1", "Where was Mira Sol born?", ("Rimu",), "towns", ("late",), "full")


def item(
    tokenizer: PreTrainedTokenizerFast, folder: Path, limit: int, method: str = "search_r1"
) -> ItemRecord:
    passages = {
        "late": f"Mira Sol. {FILLER} Mira Sol was born in Rimu.",
        "early": "Ko Ba was born in Rimu.",
    }
    lines = [json.dumps({"id": i, "contents": f'"{i}"\n{text}'}) for i, text in passages.items()]
    folder.mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    build_index(folder / "corpus.jsonl", folder / "index")
    config = Config(
        rollout=RolloutConfig(max_searches=3, max_observation_tokens=limit, max_prompt_tokens=9000),
        retriever=RetrieverConfig(k=1),
        eval=EvalConfig(batch_size=4),
    )
    says = ["<search> Mira Sol </search>", "<search> Ko Ba </search>", "<answer> Ko </answer>"]
    opened = METHODS[method].open(tokenizer, config)
    setup = EvalSetup(
        METHODS[method], opened, Speaker(tokenizer, [says]), open_index(folder / "index"), config
    )
    (record,) = evaluate_items([QUESTION], setup)
    return record


def test_a_cut_answer_was_retrieved_and_not_shown(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    record = item(tokenizer, tmp_path, 120)
    assert (record["first_retrieved"], record["first_occurrence"]) == (1, 2)
    assert (record["answer_in_retrieved"], record["answer_in_shown"]) == (1, 1)
    assert (record["searches"], record["cut_observations"]) == (2, 1)
    scores = summarize([record], dataset="towns", method="search_r1", k=1)
    assert scores["observation_cut_share"] == 0.5
    assert (scores["answer_in_shown"], scores["first_retrieved"]) == (1, 1)

    group: Any = {
        "question": record["question"],
        "golden_answers": record["golden_answers"],
        "trajectories": [record["trajectory"]],
    }
    (trajectory,) = group_from_record(group).trajectories
    trained, _ = first_occurrence(trajectory.turns, record["golden_answers"], Config().credit)
    assert trained == record["first_occurrence"], "training and evaluation agree"


def test_a_baseline_that_was_shown_too_little(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    record = item(tokenizer, tmp_path, 120, "rag")
    assert (record["answer_in_retrieved"], record["answer_in_shown"]) == (1, 0)
    assert (record["first_retrieved"], record["first_occurrence"]) == (1, None)
    whole = item(tokenizer, tmp_path / "whole", 9000, "rag")
    assert (whole["answer_in_shown"], whole["cut_observations"]) == (1, 0)


def test_what_was_cut_is_marked(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    record = item(tokenizer, tmp_path, 120)
    group = {
        "group": ["towns", "q1", 0],
        "question": record["question"],
        "golden_answers": record["golden_answers"],
        "trajectories": [record["trajectory"]],
    }
    text = transcript([group], width=10_000)
    (line,) = (line for line in text.splitlines() if "[late]" in line)
    shown, _, cut = line.partition("‹cut: ")
    assert "Mira Sol." in shown
    assert "»Rimu«" not in shown
    assert cut.endswith(" characters)›")
    assert len(line) < 3000, "a long passage does not fill the terminal"
    assert text.count("‹cut: ") == 1

    turn: Any = record["trajectory"]["turns"][0]
    ((_, _, parts, hidden),) = _turn(turn, record["golden_answers"])["passages"]
    assert "".join(parts + hidden) == turn["passages"][0]["contents"]
    assert len(parts) == 1, "the gold answer is in the part that was cut"
    assert hidden[1] == "Rimu"

    turn["feedback"] = ""
    assert "the observation is not recorded" in transcript([group], width=200)
