"""Rollout speed: tokens per second of the slot-cache engine beside `model.generate` on the whole history each turn.

    python experiments/benchmarks/rollout_speed.py [--json]

One process, one thread, a tiny policy with random weights, scripted feedback; both sides alternate and sample the same
number of tokens. The ratio is the median over the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tspo_cli.rollout.engines.base import GenerationRequest, Sampling
from tspo_cli.rollout.engines.transformers import TransformersEngine

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
    """One word per id; the engine needs it to look for stop strings."""
    words = {f"w{index}": index for index in range(VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")))


def feedback(rng: np.random.Generator, mean: int) -> list[int]:
    """Scripted feedback of about `mean` tokens."""
    return rng.integers(0, VOCABULARY, int(rng.integers(mean * 3 // 4, mean * 5 // 4 + 1))).tolist()


def engine_rollouts(engine: TransformersEngine, prompts: list[list[int]], args: argparse.Namespace) -> int:
    """Roll out all prompts with the engine; the number of sampled tokens."""
    sampling = Sampling(max_new_tokens=args.new_tokens)
    histories, rng = [list(prompt) for prompt in prompts], np.random.default_rng(1)
    turns = [0] * len(prompts)
    for session, history in enumerate(histories):
        engine.submit(GenerationRequest(session, tuple(history), sampling, seed=session))
    sampled, left = 0, len(prompts)
    while left:
        for done in engine.step():
            session = done.session
            sampled += len(done.token_ids)
            turns[session] += 1
            if turns[session] == args.turns:
                engine.release(session)
                left -= 1
                continue
            histories[session] += [*done.token_ids, *feedback(rng, args.feedback)]
            seed = session + 1000 * turns[session]
            engine.submit(GenerationRequest(session, tuple(histories[session]), sampling, seed=seed))
    return sampled


@torch.inference_mode()
def generate_rollouts(model: Any, prompts: list[list[int]], args: argparse.Namespace) -> int:
    """Roll out all prompts turn by turn with `model.generate`, left-padded, from scratch each turn."""
    histories, rng = [list(prompt) for prompt in prompts], np.random.default_rng(1)
    sampled = 0
    for turn in range(args.turns):
        width = max(map(len, histories))
        ids = torch.tensor([[0] * (width - len(history)) + history for history in histories])
        mask = torch.tensor([[0] * (width - len(history)) + [1] * len(history) for history in histories])
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=args.new_tokens,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = output.sequences[:, width:]
        sampled += new.numel()
        # The engine reports log-probabilities, so this side computes them as well.
        torch.stack(output.logits, 1).log_softmax(-1).gather(-1, new[..., None])
        if turn + 1 < args.turns:
            for history, tokens in zip(histories, new.tolist(), strict=True):
                history += [*tokens, *feedback(rng, args.feedback)]
    return sampled


def rate(run: Callable[[], int]) -> float:
    """Sampled tokens per second of one run."""
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=64, help="mean prompt tokens")
    parser.add_argument("--new-tokens", type=int, default=32, help="sampled tokens per turn")
    parser.add_argument("--feedback", type=int, default=60, help="mean feedback tokens per turn")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--kv-heads", type=int, default=0, help="0: one per query head")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model = tiny_policy(args.hidden, args.layers, args.kv_heads)
    rng = np.random.default_rng(0)
    prompts = [feedback(rng, args.prompt) for _ in range(args.batch)]
    # As in training, one engine lives through all batches; a released session leaves no prefix behind.
    engine = TransformersEngine(model, word_tokenizer(), batch_size=args.batch, max_context=2048)
    sides = {
        "engine": lambda: engine_rollouts(engine, prompts, args),
        "generate": lambda: generate_rollouts(model, prompts, args),
    }
    for run in sides.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, run in sides.items():
            rates[name].append(rate(run))
    ratios = [ours / theirs for ours, theirs in zip(rates["engine"], rates["generate"], strict=True)]
    result = {
        "settings": {key: value for key, value in vars(args).items() if key != "json"},
        "tokens_per_second": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"{'side':<12}{'tokens/s':>12}")
    for name, values in rates.items():
        print(f"{name:<12}{statistics.median(values):>12.0f}")
    print(f"ratio {statistics.median(ratios):.2f} (repeats: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
