"""One training process: from a resolved configuration to a finished run directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.console import say
from tspo_cli.models.lora import add_lora
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.engines.engine_protocol import Engine, TokenizerLike
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.engines.vllm_engine.vllm_open import open_vllm
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import Siblings
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.runs import log_line
from tspo_cli.training.core.critic import Critic, ValueModel
from tspo_cli.training.core.distributed import barrier, init_distributed, rank, world_size
from tspo_cli.training.core.handover import hand_over
from tspo_cli.training.core.learner import Learner
from tspo_cli.training.loop import Evaluate, Step, Workshop, train_loop
from tspo_cli.training.policy import starting_policy
from tspo_cli.training.rl.rl_step import read_training_questions, rl_step
from tspo_cli.training.rl.scoring import needs_critic
from tspo_cli.training.sft import demonstration_source, sft_step


def train(config: Config, run: Path, evaluate: Evaluate, *, attempt: int, resume: bool) -> None:
    """Train as `config` says, in this process (and its siblings, where RANK and WORLD_SIZE say that
    there are some).

    `run` is a claimed run directory. Data, index and model are opened before anything is computed.

    Raises:
        InvalidInputError, MissingResourceError: data, index or model that cannot be used.
    """
    torch.set_num_threads(config.train.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(config.seed)
    retriever = open_retriever(config.retriever)
    device = init_distributed()
    tokenizer, model = starting_policy(config, device)
    protocol = SearchProtocol.from_config(tokenizer, config.rollout)
    make_step = _step_maker(config, retriever, protocol)
    updates = config.train.steps * (config.train.updates_per_step if config.kind != "sft" else 1)
    if config.lora.rank:
        add_lora(model, config.lora, config.seed)
    values = ValueModel(model) if needs_critic(config) else None
    learner = Learner(model, config, total_updates=updates, temperature=config.rollout.temperature)
    critic = Critic(values, config, total_updates=updates) if values is not None else None

    def tell(message: str) -> None:
        say(message)
        log_line(run, attempt, message)

    engine = _engine(learner, tokenizer, config, run, tell)
    if config.rollout.engine == "vllm":
        hand_over(learner, engine, protocol, config, 0)
    shop = Workshop(config, run, attempt, tokenizer, protocol, learner, engine, retriever, critic)
    train_loop(shop, make_step(learner, critic, engine), evaluate, resume=resume)
    engine.close()


def _step_maker(
    config: Config, retriever: Retriever | None, protocol: SearchProtocol
) -> Callable[[Learner, Critic | None, Engine], Callable[[int], Step]]:
    """Read the training data now, so that bad data is known before the learner is built."""
    if config.kind == "sft":
        source = demonstration_source(config, retriever)
        return lambda learner, critic, engine: sft_step(config, learner, protocol, source)
    questions = read_training_questions(config)
    return lambda learner, critic, engine: rl_step(
        config, learner, critic, engine, retriever, protocol, questions
    )


def _engine(
    learner: Learner,
    tokenizer: TokenizerLike,
    config: Config,
    run: Path,
    tell: Callable[[str], None],
) -> Engine:
    """The rollout engine: vLLM, or transformers on the learner's own parameters (on a copy where
    ZeRO 3 shards them, or where it rolls out ahead).
    """
    if config.rollout.engine == "vllm":
        siblings = Siblings(rank(), world_size(), barrier)
        dtype = "bfloat16" if learner.half else "float32"
        return open_vllm(
            config, tokenizer, dtype=dtype, folder=run / "handover", siblings=siblings, tell=tell
        )
    weights = learner.whole_weights() if config.rollout.one_step_off else learner.weights()
    module = learner.module if weights is None else learner.blank_module()
    slots = max(config.rollout.batch_size, config.eval.batch_size)
    engine = TransformersEngine(
        module,
        tokenizer,
        batch_size=slots,
        max_context=context_length(config),
        owns_weights=weights is not None,
    )
    engine.load_weights(weights, 0)
    return engine
