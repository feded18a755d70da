"""The whole chain with a real pretrained model: what the engine samples, what is evaluated, trained
and exported is what plain transformers computes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.conftest import Finished
from tests.real_lm.conftest import RealQuestions
from tspo_cli.config.schema import RolloutConfig
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.runs import read_jsonl, read_jsonl_gz

pytestmark = pytest.mark.real_lm
Tspo = Callable[..., Finished]
NEW_TOKENS = 12
REPLY_TOKENS = 12
LIMITS: dict[str, object] = {
    "rollout.prompt": "search_r1",
    "rollout.max_searches": 1,
    "rollout.max_new_tokens": REPLY_TOKENS,
    "rollout.max_observation_tokens": 64,
    "rollout.max_prompt_tokens": 256,
    "retriever.k": 1,
}


def settings(**more: object) -> list[str]:
    values = LIMITS | {key.replace("__", "."): value for key, value in more.items()}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def greedy(model: PreTrainedModel, ids: Sequence[int], new_tokens: int) -> list[int]:
    """The new tokens of plain `generate`, the end of sequence included."""
    prompt = torch.tensor([list(ids)])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=new_tokens,
    )
    return out[0, len(ids) :].tolist()


def run(engine: TransformersEngine, prompts: Sequence[Sequence[int]]) -> list[Completion]:
    for session, ids in enumerate(prompts):
        engine.submit(
            GenerationRequest(
                session, tuple(ids), Sampling(temperature=0.0, max_new_tokens=NEW_TOKENS)
            )
        )
    done: list[Completion] = []
    while len(done) < len(prompts):
        done += engine.step()
    return sorted(done, key=lambda completion: completion.session)


def test_greedy_tokens_and_logprobs_are_those_of_generate(smollm: Path) -> None:
    model, tokenizer = load_model(smollm), load_tokenizer(smollm)
    questions = (
        "Hi.",
        "Name the capital of France and the river that it lies on.",
        "Summarise: " + "The river rises in the hills and flows past two towns. " * 6,
    )
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in questions
    ]
    expected = [greedy(model, ids, NEW_TOKENS) for ids in prompts]
    engine = TransformersEngine(model, tokenizer, batch_size=3, max_context=256)
    batched = run(engine, prompts)
    assert [list(completion.token_ids) for completion in batched] == expected
    (single,) = run(engine.fresh(), prompts[1:2])
    assert list(single.token_ids) == expected[1]
    for ids, completion in zip(prompts, batched, strict=True):
        whole = torch.tensor([[*ids, *completion.token_ids]])
        with torch.no_grad():
            logprobs = model(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        own = logprobs.gather(1, whole[0, len(ids) :, None])[:, 0]
        assert torch.allclose(own, torch.tensor(completion.logprobs), atol=1e-4)


def check_first_turns(
    model_dir: Path,
    found: Sequence[dict[str, Any]],
    prompt_of: Callable[[Any, str], list[int]],
    style: str = "search_r1",
) -> None:
    """The first turn of every evaluated item is the greedy continuation by plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    protocol = SearchProtocol.from_config(tokenizer, RolloutConfig(prompt=style))
    for item in found:
        prompt = prompt_of(protocol, item["question"])
        turn, length = item["trajectory"]["turns"][0], item["trajectory"]["prompt_tokens"]
        assert length == len(prompt)
        assert tokenizer.decode(prompt).startswith("<|im_start|>system\n")
        assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
        ids = greedy(model, prompt, REPLY_TOKENS)
        assert turn["text"].removesuffix("<|im_end|>") == tokenizer.decode(ids).removesuffix(
            "<|im_end|>"
        )
        whole = torch.tensor([[*prompt, *ids]])
        with torch.no_grad():
            logprobs = model(whole).logits[0, length - 1 : -1].log_softmax(-1)
        total = logprobs.gather(1, whole[0, length:, None]).sum().item()
        assert turn["logprob"] == pytest.approx(total, abs=1e-3)


def items(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("*.items.jsonl.gz")
    return list(read_jsonl_gz(path))


def test_an_evaluation_says_what_plain_transformers_says(
    smollm: Path, nq: RealQuestions, tspo: Tspo, tmp_path: Path
) -> None:
    done = tspo(
        "eval", smollm, "--data", nq.file, "--index", nq.index, "--method", "search_r1",
        "--limit", 2, "--out", tmp_path / "o", "--json", *settings(),
    )  # fmt: skip
    (scores,) = json.loads(done.out)["results"]
    found = items(tmp_path / "o")
    assert scores["n"] == len(found) == 2
    assert scores["em"] == sum(item["em"] for item in found) / 2
    assert all(len(item["trajectory"]["turns"]) <= 2 for item in found)
    check_first_turns(smollm, found, SearchProtocol.prompt_ids)


def test_sft_then_rl_then_the_exported_model_in_plain_transformers(
    smollm: Path, nq: RealQuestions, tspo: Tspo, tmp_path: Path
) -> None:
    demonstration = {
        "question": "who painted the mona lisa",
        "turns": [
            {
                "text": "<think> I do not know. </think> <search> mona lisa painter </search>",
                "passages": [{"id": "1", "contents": '"Mona Lisa"\nLeonardo painted it.'}],
            },
            {"text": "<think> It says so. </think> <answer> Leonardo </answer>"},
        ],
    }
    demonstrations = tmp_path / "demonstrations.jsonl"
    demonstrations.write_text(json.dumps(demonstration) + "\n", encoding="utf-8")
    write_experiment(tmp_path / "sft.toml", kind="sft", steps=1)
    tspo(
        "train", "sft.toml", "--out", "sft", *settings(
            model__path=smollm,
            rollout__prompt="short",
            data__demonstrations=json.dumps([str(demonstrations)]),
            train__batch_size=1,
            loss__context_weight=0,
            lora__rank=4,
        ), cwd=tmp_path,
    )  # fmt: skip
    (row,) = read_jsonl(tmp_path / "sft" / "metrics.jsonl")
    assert 0 < row["agent_loss"] < 5, "a pretrained model is no stranger to English"
    shutil.rmtree(tmp_path / "sft" / "checkpoints", ignore_errors=True)

    write_experiment(tmp_path / "rl.toml", kind="rl", steps=1)
    tspo(
        "train", "rl.toml", "--out", "rl", *settings(
            model__path=tmp_path / "sft" / "model",
            rollout__prompt="short",
            retriever__index=nq.index,
            data__train=json.dumps([str(nq.file)]),
            eval__data=json.dumps([str(nq.file)]),
            eval__limit=1,
            eval__at_start="false",
            rollout__questions_per_step=1,
            rollout__group_size=2,
            # Every rollout has a gradient, whatever its reward.
            loss__entropy=0.01,
        ), cwd=tmp_path,
    )  # fmt: skip
    (row,) = read_jsonl(tmp_path / "rl" / "metrics.jsonl")
    assert 0 <= row["parity"] < 1e-4
    assert row["grad_norm"] > 0
    before, after = load_model(tmp_path / "sft" / "model"), load_model(tmp_path / "rl" / "model")
    assert not torch.equal(before.model.norm.weight, after.model.norm.weight)
    found = items(tmp_path / "rl" / "eval" / "step_000001")
    check_first_turns(tmp_path / "rl" / "model", found, SearchProtocol.prompt_ids, "short")
    # Two gigabytes that no later test needs.
    for run_dir in ("sft", "rl"):
        shutil.rmtree(tmp_path / run_dir)


def write_experiment(path: Path, *, kind: str, steps: int) -> None:
    path.write_text(
        f'kind = "{kind}"\n[train]\nsteps = {steps}\n[optimizer]\nlr = 1e-5\nwarmup = 0\n'
        "[checkpoint]\nevery = 0\n",
        encoding="utf-8",
    )
