"""Speed with a pretrained model on a CPU: an RL step beside what tspo did before and beside TRL,
and rollouts of Search-R1's lengths beside `model.generate`.

    OMP_NUM_THREADS=1 python experiments/benchmarks/real_model_speed.py MODEL
        [--dtype bfloat16] [--steps 2] [--layers 8] [--json]

MODEL is a model directory (SmolLM2-135M-Instruct: 135 million parameters). Each side has a process
of its own, and works on one thread with the same rollouts: groups of equal prompts, turns of a
fixed number of sampled tokens, random feedback. All weights are of `--dtype`. In bfloat16 our
learner keeps a float32 copy of them for the optimiser; TRL updates the bfloat16 weights.

- `step`: rollouts, parity check, update with every rollout, hand-over. `before` is the same code
  with the ways of small models (`model_size.LARGE` is raised), which are those of version 0.3 for
  a model of this size: layers one by one, every prompt on its own. `trl` is TRL's GRPOTrainer
  (`pip install "tspo-cli[peers]"`; left out where it is not installed): `model.generate` on the
  whole histories each turn, and its training step.
- `search_r1`: rollouts of four turns, beside `model.generate` on the whole histories each turn.

Times are CPU seconds, so other work on the machine counts little. They are the median of all steps
but the first, in which the system provides new memory; a row has the first step. `--layers` keeps
the first layers of the model, for a quick look. The sampled tokens of the first step of both sides
and their log-probabilities are compared.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import compress, takewhile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoConfig

from experiments.benchmarks.common import machine
from experiments.benchmarks.scripted_rollouts import SHAPES, Rollouts
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.models.checks import model_size
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.rollout.engines.hf import hf_engine
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.core.policy_learner import PolicyLearner

NEVER = 10**15
SIDES = {"step": ("now", "before", "trl"), "search_r1": ("now", "generate")}


class Stages:
    """CPU seconds by stage, step after step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    @property
    def seconds(self) -> dict[str, float]:
        """Those of the present step."""
        return self.steps[-1]

    def begin(self) -> None:
        """A step begins."""
        self.steps.append({})

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

    def rounded(self, parts: tuple[str, ...]) -> dict[str, float]:
        """The medians of the later steps, the sum of `parts` as `step`, and that of the first
        one.
        """
        later = self.steps[1:] or self.steps
        found = {name: median(step[name] for step in later) for name in later[0]}
        sums = [sum(step.get(name, 0.0) for name in parts) for step in (self.steps[0], found)]
        found |= {"first step": sums[0], "step": sums[1]}
        return {name: round(value, 2) for name, value in found.items()}


def pretrained(options: argparse.Namespace) -> Any:
    """The model, with its first layers alone if `--layers` is given."""
    model = load_model(str(options.model), dtype=getattr(torch, options.dtype))
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    if options.layers:
        model.model.layers = model.model.layers[: options.layers]
        model.config.num_hidden_layers = options.layers
        model.config.layer_types = None
    return model.eval()


@contextmanager
def ways(large: bool) -> Iterator[None]:
    """Within it, models count as large ones, or as small ones."""
    kept = model_size.LARGE, hf_engine.can_fuse
    if not large:
        model_size.LARGE, hf_engine.can_fuse = NEVER, lambda model: False
    try:
        yield
    finally:
        model_size.LARGE, hf_engine.can_fuse = kept


def experiment(options: argparse.Namespace) -> Config:
    """The settings of an update."""
    recipe = Path(__file__).parents[1] / "tiny" / "grpo.toml"
    settings = [f"model.path={options.model}", 'data.train=["-"]', "retriever.index=-"]
    settings += ["eval.data=[]", f"train.tokens_per_micro_batch={options.micro_batch}"]
    return load_config([recipe], [*settings, f"train.steps={options.steps}"])


def ours(options: argparse.Namespace, rollouts: Rollouts, update: bool) -> dict[str, Any]:
    """Roll out, and update once if `update`: seconds by stage and results."""
    stages = Stages()
    learner = PolicyLearner(pretrained(options), experiment(options), total_updates=options.steps)
    engine = hf_engine.TransformersEngine(
        learner.module,
        load_tokenizer(str(options.model)),
        batch_size=len(rollouts.prompts),
        max_context=4096,
    )
    engine.rules.eos_ids = []
    stages.watch(engine, "_prefill", "read")
    stages.watch(engine, "_decode", "decode")
    stages.watch(learner.core, "_step", "optimiser")
    gaps: list[float] = []

    def check(changes: torch.Tensor) -> None:
        gaps.append(float(changes.abs().mean()))

    metrics: dict[str, float] = {}
    samples: list[list[tuple[int, float]]] = []
    for step in range(options.steps):
        stages.begin()
        for session in range(len(rollouts.prompts)):
            engine.release(session)
        stages.time("new weights", partial(engine.load_weights, None, step))
        histories, logprobs = stages.time("rollout", lambda: rollouts.with_engine(engine))
        sequences = rollouts.sequences(histories, logprobs)
        samples = samples or [
            list(zip(compress(row.token_ids, row.weights), own, strict=True))
            for row, own in zip(sequences, logprobs, strict=True)
        ]
        found: dict[str, float] = {}
        if update and learner.core.is_large_on_cpu:  # as RlStep does: it checks the rollouts
            found = stages.time("update", partial(learner.update_policy, sequences, check))
        elif update:
            gaps.append(stages.time("check", partial(learner.logprob_gap, sequences[:2])))
            found = stages.time("update", partial(learner.update_policy, sequences))
        metrics = metrics or found
    return {
        "seconds": stages.rounded(("rollout", "check", "update", "new weights")),
        "samples": samples,
        "metrics": metrics | ({"parity": gaps[0]} if gaps else {}),
    }


def theirs(options: argparse.Namespace, rollouts: Rollouts) -> dict[str, Any] | None:
    """CPU seconds of the rollouts and of a step of TRL's GRPOTrainer; None: it is not installed."""
    try:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
    except ImportError:
        return None
    logging.getLogger("trl").setLevel(logging.ERROR)
    stages, config, prompt = Stages(), experiment(options), rollouts.shape.prompt
    rewards = [rollouts.advantage(number) for number in range(len(rollouts.prompts))]

    def roll(prompts: list[str], trainer: Any) -> dict[str, Any]:
        histories, logprobs = stages.time("rollout", lambda: rollouts.with_generate(trainer.model))
        mask = rollouts.mask()
        padded = [iter(values) for values in logprobs]
        return {
            "prompt_ids": [history[:prompt] for history in histories],
            "completion_ids": [history[prompt:] for history in histories],
            "logprobs": [[next(own) if one else 0.0 for one in mask] for own in padded],
            "env_mask": [mask for _ in histories],
        }

    tokenizer = load_tokenizer(str(options.model))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=pretrained(options),
            reward_funcs=lambda prompts, completions, **_: rewards,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=len(rewards),
                num_generations=rollouts.group,
                max_steps=options.steps,
                beta=0.0,
                max_completion_length=len(rollouts.mask()),
                loss_type="dapo",
                learning_rate=config.optimizer.lr,
                lr_scheduler_type="constant",
                gradient_checkpointing=False,
                bf16=False,  # the weights are of --dtype themselves
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            processing_class=tokenizer,
            rollout_func=roll,
            train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(8)]),
        )
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1  # trainer.train() would set it

        def step() -> None:
            trainer.model.train()
            inputs = [{"prompt": str(number // rollouts.group)} for number in range(len(rewards))]
            trainer.training_step(trainer.model, inputs, None)
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), config.optimizer.grad_clip)
            trainer.optimizer.step()
            trainer.model.zero_grad()

        for _ in range(options.steps):
            stages.begin()
            started = time.process_time()
            step()
            total = time.process_time() - started
            stages.seconds["update"] = total - stages.seconds["rollout"]
    return {"seconds": stages.rounded(("rollout", "update"))}


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """The share of sampled tokens up to the first one that differs in each rollout, and the largest
    difference of their log-probabilities. Sampling from a flat distribution, a difference in the
    last digits now and then gives another token, and with it another rollout.
    """
    gaps: list[float] = []
    total = 0
    for ours, theirs in zip(one["samples"], other["samples"], strict=True):
        total += len(ours)
        pairs = takewhile(lambda pair: pair[0][0] == pair[1][0], zip(ours, theirs, strict=True))
        gaps += [abs(own[1] - own_before[1]) for own, own_before in pairs]
    return {"same_tokens": len(gaps) / total, "logprobs": max(gaps, default=0.0)}


def measure(side: str, comparison: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """One side of a comparison, in this process: seconds by stage, and results. None: TRL is not
    installed.
    """
    torch.set_num_threads(1)
    init_distributed()
    vocabulary = AutoConfig.from_pretrained(options.model).vocab_size
    rollouts = Rollouts(SHAPES[comparison], options.questions, options.group, vocabulary)
    update = comparison == "step"
    if side == "trl":
        return theirs(options, rollouts)
    if side == "generate":
        stages, model = Stages(), pretrained(options)
        for _ in range(options.steps):
            stages.begin()
            stages.time("rollout", lambda: rollouts.with_generate(model))
        return {"seconds": stages.rounded(("rollout",))}
    with ways(large=side == "now"):
        return ours(options, rollouts, update)


def compare(comparison: str) -> dict[str, Any]:
    """The sides of a comparison, each in a process of its own."""
    sides: dict[str, dict[str, Any]] = {}
    for side in SIDES[comparison]:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--only", comparison]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        found = json.loads(output.splitlines()[-1])
        if found is not None:
            sides[side] = found
    seconds = {side: found["seconds"] for side, found in sides.items()}
    peaks = {side: round(found["peak_gib"], 1) for side, found in sides.items()}
    ratios = {
        side: round(own["step"] / seconds["now"]["step"], 2)
        for side, own in seconds.items()
        if side != "now"
    }
    result: dict[str, Any] = {"seconds": seconds, "peak_gib": peaks, "ratios": ratios}
    if "before" in sides:
        result["differences"] = differences(sides["now"], sides["before"])
    return result | {"metrics": sides["now"]["metrics"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--layers", type=int, default=0, help="0: all")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=8192, help="tokens")
    parser.add_argument("--only", choices=list(SHAPES))
    parser.add_argument("--side", choices=list(SIDES["step"] + SIDES["search_r1"]))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    if options.side:
        found = measure(options.side, options.only, options)
        if found is not None:
            found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found))
        return
    result: dict[str, Any] = {"machine": machine()}
    for name in [options.only] if options.only else SIDES:
        result[name] = compare(name)
        if not options.json:
            show(name, result[name])
    print(json.dumps(result) if options.json else result["machine"])


def show(name: str, found: dict[str, Any]) -> None:
    """Print a comparison: CPU seconds by stage and side, and the ratios."""
    sides = found["seconds"]
    stages = dict.fromkeys(stage for seconds in sides.values() for stage in seconds)
    print(f"{name}; CPU seconds")
    print(f"{'stage':<14}" + "".join(f"{side:>10}" for side in sides))
    for stage in stages:
        cells = (sides[side].get(stage) for side in sides)
        print(f"{stage:<14}" + "".join(f"{'' if x is None else f'{x:.2f}':>10}" for x in cells))
    for side, ratio in found["ratios"].items():
        print(f"{ratio:.2f}x of {side}")
    for key in ("peak_gib", "differences", "metrics"):
        if key in found:
            print(f"{key}: {found[key]}")
    print(flush=True)


if __name__ == "__main__":
    main()
