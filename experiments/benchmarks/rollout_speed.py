"""Rollout speed: tokens per second of the slot-cache engine, compared with `model.generate` on the
whole history each turn.

    python experiments/benchmarks/rollout_speed.py [--workload demo] [--json]

One process, one thread, a tiny policy with random weights, scripted feedback. Both sides alternate
and sample the same number of tokens. The ratio is the median over the repeats. If actions differ in
length, `generate` also waits: a turn lasts as long as its longest action.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tspo_cli.console import counted
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine

VOCABULARY = 700
EOS = VOCABULARY - 1


def tiny_policy(hidden: int, layers: int, kv_heads: int = 0) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights, heads of 32 dimensions and no end-of-sequence token."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=kv_heads or hidden // 32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return Qwen2ForCausalLM(config).eval()


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one word per id. The engine needs one to find stop strings."""
    words = {f"w{index}": index for index in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0"))
    )


@dataclass(frozen=True)
class Workload:
    """Lengths of a rollout in tokens: the means of prompts, actions and feedback.

    Action lengths are uniform between (1 - spread) and (1 + spread) times their mean. Lengths of
    prompts and feedback are within 25 % of their mean.
    """

    prompt: int
    action: int
    feedback: int
    spread: float


WORKLOADS = {
    "equal actions": Workload(prompt=64, action=32, feedback=60, spread=0.0),
    "demo": Workload(prompt=14, action=18, feedback=51, spread=0.75),
    "search-r1": Workload(prompt=200, action=60, feedback=300, spread=0.75),
}


@dataclass(frozen=True)
class Script:
    """For every rollout its prompt ids, and for each turn the number of sampled tokens and the
    feedback ids.
    """

    prompts: list[list[int]]
    actions: list[list[int]]
    feedback: list[list[list[int]]]


def make_script(workload: Workload, batch: int, turns: int) -> Script:
    """A script for both sides, the same at every call."""
    rng = np.random.default_rng(0)

    def tokens(mean: int) -> list[int]:
        return rng.integers(0, VOCABULARY, around(mean, 0.25)).tolist()

    def around(mean: int, spread: float) -> int:
        return int(rng.integers(round(mean * (1 - spread)), round(mean * (1 + spread)) + 1))

    return Script(
        prompts=[tokens(workload.prompt) for _ in range(batch)],
        actions=[
            [around(workload.action, workload.spread) for _ in range(turns)] for _ in range(batch)
        ],
        feedback=[[tokens(workload.feedback) for _ in range(turns)] for _ in range(batch)],
    )


def engine_rollouts(engine: TransformersEngine, script: Script) -> int:
    """Roll out all prompts with the engine. Returns the number of sampled tokens."""
    histories = [list(prompt) for prompt in script.prompts]
    turn = [0] * len(histories)

    def submit(session: int) -> None:
        sampling = Sampling(max_new_tokens=script.actions[session][turn[session]])
        seed = session + 1000 * turn[session]
        engine.submit(GenerationRequest(session, tuple(histories[session]), sampling, seed=seed))

    for session in range(len(histories)):
        submit(session)
    sampled, unfinished = 0, len(histories)
    while unfinished:
        for completion in engine.step():
            session = completion.session
            sampled += len(completion.token_ids)
            histories[session] += [*completion.token_ids, *script.feedback[session][turn[session]]]
            turn[session] += 1
            if turn[session] == len(script.actions[session]):
                engine.release(session)
                unfinished -= 1
            else:
                submit(session)
    return sampled


@torch.inference_mode()
def generate_rollouts(model: Any, script: Script) -> int:
    """Roll out all prompts turn by turn with `model.generate`, left-padded, from scratch each turn.

    A turn lasts as long as its longest action. Tokens that shorter actions sample beyond their end
    do not count.
    """
    histories = [list(prompt) for prompt in script.prompts]
    sampled = 0
    for turn in range(len(script.actions[0])):
        lengths = [actions[turn] for actions in script.actions]
        width = max(map(len, histories))
        ids = torch.tensor([[0] * (width - len(history)) + history for history in histories])
        mask = torch.tensor(
            [[0] * (width - len(history)) + [1] * len(history) for history in histories]
        )
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=max(lengths),
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = output.sequences[:, width:]
        sampled += sum(lengths)
        # The engine returns log-probabilities, so this side computes them too.
        torch.stack(output.logits, 1).log_softmax(-1).gather(-1, new[..., None])
        for history, tokens, length, feedback in zip(
            histories, new.tolist(), lengths, script.feedback, strict=True
        ):
            history += [*tokens[:length], *feedback[turn]]
    return sampled


def rate(run: Callable[[], int]) -> float:
    """Sampled tokens per second of one run."""
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def compare(workload: Workload, model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Run both sides by turns: median tokens per second of each, and the median of the ratios of
    consecutive runs.
    """
    script = make_script(workload, args.batch, args.turns)
    # As in training, one engine serves all batches. A released session leaves no cached prefix.
    engine = TransformersEngine(model, word_tokenizer(), batch_size=args.batch, max_context=4096)
    sides = {
        "engine": lambda: engine_rollouts(engine, script),
        "generate": lambda: generate_rollouts(model, script),
    }
    for run in sides.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, run in sides.items():
            rates[name].append(rate(run))
    ratios = [
        ours / theirs for ours, theirs in zip(rates["engine"], rates["generate"], strict=True)
    ]
    return {
        **asdict(workload),
        "tokens_per_second": {
            name: round(statistics.median(values), 1) for name, values in rates.items()
        },
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="default: all")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--kv-heads", type=int, default=0, help="0: one per query head")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model = tiny_policy(args.hidden, args.layers, args.kv_heads)
    names = args.workload or list(WORKLOADS)
    results = {name: compare(WORKLOADS[name], model, args) for name in names}
    if args.json:
        settings = {
            key: value for key, value in vars(args).items() if key not in ("json", "workload")
        }
        print(json.dumps({"settings": settings, "workloads": results}))
        return
    print(
        f"batch {args.batch}, {counted(args.turns, 'turn')}, one thread; tokens per second, median "
        f"of {args.repeats}"
    )
    print(
        f"{'lengths':<16}{'prompt':>8}{'action':>8}{'feedback':>10}{'engine':>10}{'generate':>10}{'ratio':>8}"
    )
    for name, row in results.items():
        speed = row["tokens_per_second"]
        lengths = f"{row['prompt']:>8}{row['action']:>8}{row['feedback']:>10}"
        print(
            f"{name:<16}{lengths}{speed['engine']:>10.0f}{speed['generate']:>10.0f}{row['ratio']:>8.2f}"
        )


if __name__ == "__main__":
    main()
