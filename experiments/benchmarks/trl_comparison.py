"""One RL step (rollout and update) of tspo, compared with a step of TRL's GRPOTrainer with a
multi-turn rollout function.

    OMP_NUM_THREADS=1 python experiments/benchmarks/trl_comparison.py MODEL WORLD INDEX [--json]

MODEL is a policy directory (the demo's: runs/demo/warmstart/model), WORLD a synthetic world, INDEX
its index. Needs `pip install "tspo-cli[peers]"`.

tspo's side is the RL step of `tspo train` (tspo_cli/training/rl/rl_step.py). TRL's side is
`GRPOTrainer.training_step` with clipping and AdamW; its rollouts call `model.generate` once per
turn for all rollouts of the step. Both sides have the same model, questions, index, prompts,
feedback, limits, temperature and number of updates. They run in float32 on one thread and
alternate.

Tokens per second are sampled tokens over the seconds of the step. Actions are sampled, so their
lengths differ a little between the sides; the counts are printed. tspo leaves rollouts without any
advantage out of the update, which does not change the gradient. `tspo, all` trains on every
rollout, as TRL does.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.common import machine
from tspo_cli.config.context import context_length
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.data.question import Question
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.protocol import STOP_STRINGS, SearchProtocol, parse_action
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.rl.question_batches import batch_of_step, read_training_questions
from tspo_cli.training.rl.rl_step import RlParts, RlStep

SIDES = ("tspo", "tspo, all", "trl")


@dataclass(frozen=True)
class Outcome:
    """A finished step: sampled tokens, turns, seconds of the rollouts and of the whole step."""

    sampled: int
    turns: int
    rollout_s: float
    total_s: float


def ours(
    config: Config, retriever: Retriever, questions: list[Question], folder: Path
) -> Callable[[int], Outcome]:
    """The training step of `tspo train` for a run in `folder`."""
    tokenizer, model = load_tokenizer(config.model.path), load_model(config.model.path)
    protocol = SearchProtocol.from_config(tokenizer, config.rollout)
    learner = PolicyLearner(
        model, config, total_updates=config.train.steps, temperature=config.rollout.temperature
    )
    slots = config.rollout.batch_size
    engine = TransformersEngine(
        learner.module, tokenizer, batch_size=slots, max_context=context_length(config)
    )
    engine.load_weights(None, 0)
    parts = RlParts(config, learner, None, engine, retriever, protocol, questions, folder)
    make_step = RlStep(parts)

    def step(number: int) -> Outcome:
        started = time.perf_counter()
        result = make_step(number, False)
        seconds = time.perf_counter() - started
        turns = [
            turn
            for group in result.rollouts
            for trajectory in group["trajectories"]
            for turn in trajectory["turns"]
        ]
        return Outcome(
            sum(turn["tokens"] for turn in turns), len(turns), result.timings["rollout"], seconds
        )

    return step


def theirs(
    config: Config, retriever: Retriever, questions: list[Question], folder: str
) -> Callable[[int], Outcome]:
    """TRL's training step on the same questions."""
    try:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
    except ImportError as error:
        raise SystemExit(
            f"{error}: this benchmark needs TRL: pip install 'tspo-cli[peers]'"
        ) from None
    logging.getLogger("trl").setLevel(logging.ERROR)
    rollout, optimizer = config.rollout, config.optimizer
    tokenizer, model = load_tokenizer(config.model.path), load_model(config.model.path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    protocol = SearchProtocol.from_config(tokenizer, rollout)
    answers = {
        question.question: [answer.lower() for answer in question.golden_answers]
        for question in questions
    }
    last: dict[str, Any] = {}  # of the last rollouts: seconds, sampled tokens, turns

    def roll(prompts: list[str], trainer: Any) -> dict[str, Any]:
        started = time.perf_counter()
        rollouts = _rollouts(prompts, trainer.model, tokenizer, protocol, retriever, config)
        last["seconds"] = time.perf_counter() - started
        last["sampled"] = sum(sum(mask) for mask in rollouts["env_mask"])
        last["turns"] = sum(rollouts.pop("turns"))
        return rollouts

    def reward(
        prompts: list[str], completions: list[str], answer: list[str], **_: Any
    ) -> list[float]:
        return [
            float(text.strip().lower() in answers[prompt])
            for prompt, text in zip(prompts, answer, strict=True)
        ]

    size = rollout.questions_per_step * rollout.group_size
    options = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=size,
        num_generations=rollout.group_size,
        gradient_accumulation_steps=1,
        num_iterations=1,
        max_steps=config.train.steps,
        beta=config.loss.kl,
        temperature=rollout.temperature,
        max_completion_length=context_length(config),
        loss_type="dapo",
        epsilon=config.loss.clip_low,
        learning_rate=optimizer.lr,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.grad_clip,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_vllm=False,
        shuffle_dataset=False,
        seed=config.seed,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=options,
        processing_class=tokenizer,
        rollout_func=roll,
        train_dataset=Dataset.from_list([{"prompt": question.question} for question in questions]),
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # trainer.train() would set it

    def step(number: int) -> Outcome:
        batch = [drawn.question.question for drawn in batch_of_step(questions, number, config)]
        inputs = [{"prompt": prompt} for prompt in batch for _ in range(rollout.group_size)]
        started = time.perf_counter()
        trainer.model.train()
        trainer.training_step(trainer.model, inputs, None)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), optimizer.grad_clip)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        trainer.state.global_step += 1
        return Outcome(
            last["sampled"], last["turns"], last["seconds"], time.perf_counter() - started
        )

    return step


@torch.no_grad()
def _rollouts(
    questions: list[str],
    model: Any,
    tokenizer: Any,
    protocol: SearchProtocol,
    retriever: Retriever,
    config: Config,
) -> dict[str, Any]:
    """All rollouts turn by turn: each turn is one left-padded batch of the unfinished rollouts."""
    rollout = config.rollout
    prompts = [protocol.prompt_ids(question) for question in questions]
    ids, masks, logprobs = ([list[Any]() for _ in prompts] for _ in range(3))
    turns, answers = [0] * len(prompts), [""] * len(prompts)
    unfinished = list(range(len(prompts)))
    was_training = model.training
    model.eval()
    for turn in range(rollout.max_searches + 1):
        histories = [prompts[index] + ids[index] for index in unfinished]
        width = max(map(len, histories))
        tokens = torch.tensor(
            [[tokenizer.pad_token_id] * (width - len(history)) + history for history in histories]
        )
        attention = torch.tensor(
            [[0] * (width - len(history)) + [1] * len(history) for history in histories]
        )
        output = model.generate(
            tokens,
            attention_mask=attention,
            do_sample=True,
            temperature=rollout.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=rollout.max_new_tokens,
            stop_strings=list(STOP_STRINGS),
            tokenizer=tokenizer,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            output_scores=True,
            return_dict_in_generate=True,
        )
        new = output.sequences[:, width:]
        scores = (
            torch.stack(output.scores, 1)
            .log_softmax(-1)
            .gather(-1, new[..., None])
            .squeeze(-1)
            .tolist()
        )
        queries, continuing = dict[int, str](), []
        for index, row, values in zip(unfinished, new.tolist(), scores, strict=True):
            length = _length(row, tokenizer, protocol)
            row, turns[index] = row[:length], turns[index] + 1
            ids[index] += row
            masks[index] += [1] * length
            logprobs[index] += values[:length]
            is_last = turn == rollout.max_searches
            finish = "length" if length == rollout.max_new_tokens else "stop"
            text = protocol.decode(row)
            action = parse_action(text, finish_reason=finish, may_search=not is_last)
            if action.kind == "answer":
                answers[index] = action.content
            elif action.kind == "search":
                queries[index] = action.content
            elif not is_last:
                feedback = protocol.correction()[1]
                _append_feedback(feedback, ids[index], masks[index], logprobs[index])
            if action.kind != "answer" and not is_last:
                continuing.append(index)
        results = retriever.search(list(queries.values()), config.retriever.k) if queries else []
        for index, result in zip(queries, results, strict=True):
            feedback = protocol.observation(result.hits)[1]
            _append_feedback(feedback, ids[index], masks[index], logprobs[index])
        unfinished = continuing
        if not unfinished:
            break
    model.train(was_training)
    return {
        "prompt_ids": prompts,
        "completion_ids": ids,
        "logprobs": logprobs,
        "env_mask": masks,
        "turns": turns,
        "answer": answers,
    }


def _append_feedback(
    feedback: list[int], ids: list[int], mask: list[int], logprobs: list[float]
) -> None:
    ids += feedback
    mask += [0] * len(feedback)
    logprobs += [0.0] * len(feedback)


def _length(row: list[int], tokenizer: Any, protocol: SearchProtocol) -> int:
    """The number of sampled tokens of a padded row: up to a stop string or the end of sequence."""
    text = ""
    for length, token in enumerate(row, start=1):
        text += protocol.decode([token])
        if token == tokenizer.eos_token_id or any(stop in text for stop in STOP_STRINGS):
            return length
    return len(row)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("world", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    init_distributed()
    recipe = Path(__file__).parents[1] / "tiny" / "grpo.toml"
    size = 8 * 5
    settings = [
        f"model.path={args.model}",
        f'data.train=["{args.world}/train.jsonl"]',
        f"retriever.index={args.index}",
    ]
    settings += [f"train.steps={args.repeats + 1}", f"rollout.batch_size={size}", "eval.data=[]"]
    config = load_config([recipe], settings)
    retriever = open_retriever(config.retriever)
    assert retriever is not None
    questions = read_training_questions(config)
    outcomes: dict[str, list[Outcome]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        all_rollouts = load_config([recipe], [*settings, "train.drop_zero_advantage=false"])
        steps = {
            "tspo": ours(config, retriever, questions, Path(folder)),
            "tspo, all": ours(all_rollouts, retriever, questions, Path(folder)),
            "trl": theirs(config, retriever, questions, folder),
        }
        for number in range(1, args.repeats + 2):
            for side, step in steps.items():
                outcome = step(number)
                if number > 1:  # the first round warms up
                    outcomes[side].append(outcome)
    rates = {
        side: [outcome.sampled / outcome.total_s for outcome in rows]
        for side, rows in outcomes.items()
    }
    ratios = {
        side: [rate / trl for rate, trl in zip(rates[side], rates["trl"], strict=True)]
        for side in SIDES
        if side != "trl"
    }
    table = {
        side: {
            "tokens_per_second": statistics.median(rates[side]),
            "rollout_s": statistics.median(outcome.rollout_s for outcome in rows),
            "update_s": statistics.median(outcome.total_s - outcome.rollout_s for outcome in rows),
            "sampled": statistics.mean(outcome.sampled for outcome in rows),
            "turns": statistics.mean(outcome.turns for outcome in rows),
        }
        for side, rows in outcomes.items()
    }
    if args.json:
        print(json.dumps({"machine": machine(), "sides": table, "ratios": ratios}, indent=2))
        return
    print(
        f"{machine()}; {size} rollouts a step, float32, median of {counted(args.repeats, 'step')}"
    )
    print(
        f"{'side':<10}{'tokens/s':>10}{'rollout s':>11}{'update s':>10}"
        f"{'tokens/step':>13}{'turns/step':>12}"
    )
    for side, row in table.items():
        print(f"{side:<10}{row['tokens_per_second']:>10.0f}{row['rollout_s']:>11.2f}{row['update_s']:>10.2f}"
              f"{row['sampled']:>13.0f}{row['turns']:>12.1f}")  # fmt: skip
    for side, rounds in ratios.items():
        print(
            f"{side}: {statistics.median(rounds):.2f}x of trl (rounds: "
            f"{', '.join(f'{ratio:.2f}' for ratio in rounds)})"
        )


if __name__ == "__main__":
    main()
