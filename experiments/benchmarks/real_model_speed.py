"""Speed with a pretrained model on a CPU, stage by stage: what tspo does for large models, beside
what it does without it, and beside `model.generate` on the whole history each turn.

    OMP_NUM_THREADS=1 python experiments/benchmarks/real_model_speed.py MODEL [--layers 8] [--json]

MODEL is a model directory (SmolLM2-135M-Instruct: 135 million parameters). Both sides of a ratio
run in one process, in float32 on one thread, and sample the same rollouts: groups of equal prompts,
random feedback. Stages: the first prompts, decoding, feedback, one update, and log-probabilities.
`before` is the same code with the ways of small models (`model_size.LARGE` is raised), which are
those of version 0.3 for a model of this size: layers one by one, every prompt on its own.

Times are CPU seconds, so other work on the machine counts little. `--layers` keeps the first layers
of the model, for a quick look. Largest differences of the log-probabilities, the loss and the
gradient norm are printed; sampled tokens of both sides are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.common import machine
from tspo_cli.config.load_config import load_config
from tspo_cli.models.checks import model_size
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf import hf_engine
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence

NEVER = 10**15


class Rollouts:
    """Scripted rollouts: groups of `group` with the same prompt, `turns` actions of `action` tokens
    with `feedback` tokens between them. Prompts begin with the same instruction.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        random = np.random.default_rng(0)

        def tokens(count: int) -> list[int]:
            return random.integers(100, options.vocabulary - 100, count).tolist()

        instruction = tokens(options.instruction)
        prompts = [
            instruction + tokens(options.prompt - options.instruction)
            for _ in range(options.questions)
        ]
        self.prompts = [prompt for prompt in prompts for _ in range(options.group)]
        self.feedback = [
            [tokens(options.feedback) for _ in range(options.turns - 1)] for _ in self.prompts
        ]

    def with_engine(self, engine: Any) -> tuple[list[list[int]], list[list[float]]]:
        """Roll out with the engine: histories, and log-probabilities of the sampled tokens."""
        histories = [list(prompt) for prompt in self.prompts]
        logprobs: list[list[float]] = [[] for _ in histories]
        turns = [0] * len(histories)

        def submit(session: int) -> None:
            sampling = Sampling(max_new_tokens=self.options.action)
            seed = session + 1000 * turns[session]
            request = GenerationRequest(session, tuple(histories[session]), sampling, seed)
            engine.submit(request)

        for session in range(len(histories)):
            submit(session)
        unfinished = len(histories)
        while unfinished:
            for done in engine.step():
                session = done.session
                histories[session] += done.token_ids
                logprobs[session] += done.logprobs
                turns[session] += 1
                if turns[session] == self.options.turns:
                    engine.release(session)
                    unfinished -= 1
                else:
                    histories[session] += self.feedback[session][turns[session] - 1]
                    submit(session)
        return histories, logprobs

    @torch.inference_mode()
    def with_generate(self, model: Any) -> int:
        """Roll out with `model.generate` from scratch each turn; returns the sampled tokens. All
        histories are equally long, so there is no padding.
        """
        histories, sampled = [list(prompt) for prompt in self.prompts], 0
        for turn in range(self.options.turns):
            ids = torch.tensor(histories)
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                min_new_tokens=self.options.action,
                max_new_tokens=self.options.action,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
            new = output.sequences[:, ids.shape[1] :]
            torch.stack(output.logits, 1).log_softmax(-1).gather(-1, new[..., None])
            sampled += new.numel()
            for history, row, feedback in zip(histories, new.tolist(), self.feedback, strict=True):
                history += row + (feedback[turn] if turn < len(feedback) else [])
        return sampled

    def sequences(
        self, histories: list[list[int]], logprobs: list[list[float]]
    ) -> list[TrainSequence]:
        """What the learner trains on, with different advantages within each group."""
        options = self.options
        turn = [1.0] * options.action
        weights = [0.0] * options.prompt + turn
        for _ in range(options.turns - 1):
            weights += [0.0] * options.feedback + turn
        made = []
        for number, (ids, values) in enumerate(zip(histories, logprobs, strict=True)):
            own = iter(values)
            old = [next(own) if weight else 0.0 for weight in weights]
            advantage = number % options.group - (options.group - 1) / 2
            made.append(TrainSequence(ids, weights, [advantage * w for w in weights], old))
        return made


class Stages:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Do `work` and add its CPU seconds to a stage."""
        started = time.process_time()
        result = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started
        return result

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time each call of a method of an object."""
        inner = getattr(owner, method)
        setattr(owner, method, lambda *args: self.time(name, lambda: inner(*args)))


def pretrained(options: argparse.Namespace) -> Any:
    """The model, with its first layers alone if `--layers` is given."""
    model = load_model(str(options.model))
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    if options.layers:
        model.model.layers = model.model.layers[: options.layers]
        model.config.num_hidden_layers = options.layers
        model.config.layer_types = None
    return model.eval()


def side(options: argparse.Namespace, rollouts: Rollouts, large: bool) -> dict[str, Any]:
    """Roll out and update once: seconds by stage and results."""
    model_size.LARGE = model_size.LARGE if large else NEVER
    hf_engine.can_fuse = hf_engine.can_fuse if large else lambda model: False  # type: ignore[assignment]
    recipe = Path(__file__).parents[1] / "tiny" / "grpo.toml"
    settings = [f"model.path={options.model}", 'data.train=["-"]', "retriever.index=-"]
    settings += ["eval.data=[]", f"train.tokens_per_micro_batch={options.micro_batch}"]
    config = load_config([recipe], [*settings, "train.steps=10"])
    stages = Stages()
    learner = PolicyLearner(pretrained(options), config, total_updates=10)
    engine = hf_engine.TransformersEngine(
        learner.module,
        load_tokenizer(str(options.model)),
        batch_size=len(rollouts.prompts),
        max_context=4096,
    )
    engine.rules.eos_ids = []
    stages.watch(engine, "_prefill", "read")
    stages.watch(engine, "_decode", "decode")
    if engine._fused is not None:
        stages.watch(engine._fused, "refresh", "new weights")
    engine.load_weights(None, 0)
    started = time.process_time()
    histories, logprobs = rollouts.with_engine(engine)
    rollout = time.process_time() - started
    sequences = rollouts.sequences(histories, logprobs)
    metrics: dict[str, float] = {}
    if not options.rollouts_only:
        gap = stages.time("check", lambda: learner.logprob_gap(sequences[:2]))
        metrics = stages.time("update", lambda: learner.update_policy(sequences))
        metrics["parity"] = gap
    stages.seconds["rollout"] = rollout
    step = ("rollout", "check", "update", "new weights")
    stages.seconds["step"] = sum(stages.seconds.get(name, 0.0) for name in step)
    return {
        "seconds": {name: round(value, 2) for name, value in stages.seconds.items()},
        "histories": histories,
        "logprobs": logprobs,
        "metrics": metrics,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How far the results are apart: share of equal tokens, log-probabilities, loss, gradient."""
    pairs = [
        (ours, theirs)
        for row, other_row in zip(one["logprobs"], other["logprobs"], strict=True)
        for ours, theirs in zip(row, other_row, strict=True)
    ]
    same = [a == b for a, b in zip(one["histories"], other["histories"], strict=True)]
    found = {"same_rollouts": sum(same) / len(same)}
    if all(same):
        found["logprobs"] = max(abs(ours - theirs) for ours, theirs in pairs)
        for name in ("loss", "grad_norm"):
            if name in one["metrics"]:
                found[name] = abs(one["metrics"][name] - other["metrics"][name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--layers", type=int, default=0, help="0: all")
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--instruction", type=int, default=120)
    parser.add_argument("--prompt", type=int, default=170)
    parser.add_argument("--action", type=int, default=40)
    parser.add_argument("--feedback", type=int, default=200)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=8192)
    parser.add_argument(
        "--search-r1", action="store_true", help="four turns of 200, 60 and 300 tokens, no update"
    )
    parser.add_argument("--rollouts-only", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.search_r1:
        options.prompt, options.action, options.feedback, options.turns = 200, 60, 300, 4
        options.rollouts_only = True

    torch.set_num_threads(1)
    init_distributed()
    options.vocabulary = load_model(str(options.model)).config.vocab_size
    rollouts = Rollouts(options)
    # `before` is last: it takes away what large models have.
    now = side(options, rollouts, large=True)
    before = side(options, rollouts, large=False)
    result: dict[str, Any] = {
        "machine": machine(),
        "now": now["seconds"],
        "before": before["seconds"],
        "ratios": {
            name: round(before["seconds"][name] / seconds, 2)
            for name, seconds in now["seconds"].items()
            if name in before["seconds"] and seconds
        },
        "differences": differences(now, before),
        "peak_gib": {"now": round(now["peak_gib"], 2)},
    }
    if options.rollouts_only:
        stages = Stages()
        model = pretrained(options)
        stages.time("generate", lambda: rollouts.with_generate(model))
        result["generate"] = round(stages.seconds["generate"], 2)
        result["ratios"]["rollout beside generate"] = round(
            result["generate"] / now["seconds"]["rollout"], 2
        )
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['machine']}; {len(rollouts.prompts)} rollouts; CPU seconds")
    print(f"{'stage':<14}{'before':>9}{'now':>9}{'ratio':>8}")
    for name, seconds in before["seconds"].items():
        print(
            f"{name:<14}{seconds:>9.2f}{now['seconds'][name]:>9.2f}{result['ratios'][name]:>8.2f}"
        )
    for name in ("generate", "ratios", "differences", "peak_gib"):
        if name in result:
            print(f"{name}: {result[name]}")


if __name__ == "__main__":
    main()
