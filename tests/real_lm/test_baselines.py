"""Baselines of a real model that knows no tags: every reply is read, and the scores are those of an
independent count over the greedy replies of plain transformers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.evaluation.test_plain_answers import f1_of, words_of
from tests.real_lm.conftest import RealQuestions
from tests.real_lm.test_smollm import Tspo, greedy
from tspo_cli.runs import read_jsonl_gz

pytestmark = pytest.mark.real_lm
NEW = 16


@pytest.mark.parametrize("method", ["direct", "rag"])
def test_every_reply_is_read(
    smollm: Path, nq: RealQuestions, tspo: Tspo, tmp_path: Path, method: str
) -> None:
    limits = {"rollout.max_new_tokens": NEW, "rollout.max_observation_tokens": 96, "retriever.k": 1}
    done = tspo(
        "eval", smollm, "--data", nq.file, "--index", nq.index, "--method", method, "--json",
        "--limit", 2, "--out", tmp_path / "o",
        *(word for key, value in limits.items() for word in ("--set", f"{key}={value}")),
    )  # fmt: skip
    (scores,) = json.loads(done.out)["results"]
    items = list(read_jsonl_gz(tmp_path / "o" / "nq.items.jsonl.gz"))
    assert len(items) == 2
    model = AutoModelForCausalLM.from_pretrained(smollm)
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    torch.set_num_threads(1)
    instruction = {
        "direct": "Answer the question from what you know.",
        "rag": "Answer the question with the help of the passages.",
    }[method] + " Give only the answer, in a few words.\n\n"
    count = {"em": 0.0, "f1": 0.0}
    for item in items:
        shown = "".join(f"{turn['feedback']}\n\n" for turn in item["trajectory"]["turns"][:-1])
        # As in Search-R1, a question ends with a question mark (rollout.question_mark).
        asked = f"{instruction}{shown}Question: {item['question'].strip().rstrip('?')}?"
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        reply = tokenizer.decode(greedy(model, ids, NEW), skip_special_tokens=True).strip()
        assert item["answer"] == reply != ""
        golds = item["golden_answers"]
        count["em"] += any(words_of(reply) == words_of(gold) for gold in golds)
        count["f1"] += max(f1_of(reply, gold) for gold in golds)
    assert (scores["no_answer_share"], scores["invalid_share"]) == (0, 0)
    assert scores["answer_from"] == {"reply": len(items)}
    assert scores["em"] == count["em"] / len(items)
    assert scores["f1"] == pytest.approx(count["f1"] / len(items))
