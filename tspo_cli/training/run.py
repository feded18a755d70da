"""One training process: from a resolved configuration to a finished run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tspo_cli.arithmetic import use_portable_kernels
from tspo_cli.config.context import context_length, sequences_at_once
from tspo_cli.config.schema import Config
from tspo_cli.console import say
from tspo_cli.models.chat_template import stop_ids, template_notes
from tspo_cli.models.checks.model_digest import former_digest, steady_model
from tspo_cli.models.dtype import use_float32_head
from tspo_cli.models.eos import eos_ids
from tspo_cli.models.lora import adapted_layers, add_lora
from tspo_cli.rollout.engines.engine_protocol import Engine
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.engines.vllm_engine.adapters import Adapters
from tspo_cli.rollout.engines.vllm_engine.vllm_open import open_vllm, refuse_impossible_transfer
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.runs import HANDOVER_NAME, log_line, read_status, set_status
from tspo_cli.steady_folders import identity
from tspo_cli.training.announce import idle_gpus
from tspo_cli.training.core.critic import Critic, ValueModel
from tspo_cli.training.core.distributed import (
    barrier,
    gather_json,
    init_distributed,
    rank,
    world_size,
)
from tspo_cli.training.core.engine_weights import (
    engine_copies_weights,
    frozen_weights,
    weights_for_engine,
)
from tspo_cli.training.core.export import empty_model
from tspo_cli.training.core.handover import hand_over
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.launch.lookout import failing_together, watched
from tspo_cli.training.launch.same_command import require_same
from tspo_cli.training.launch.sweep_inputs import require_inputs_of_sweep
from tspo_cli.training.launch.training_run import TrainingRun
from tspo_cli.training.loop import Evaluate, MakeStep, train_loop
from tspo_cli.training.policy import starting_policy
from tspo_cli.training.rl.background import refuse_unsafe_background
from tspo_cli.training.rl.judged_rollouts import AnswerJudge
from tspo_cli.training.rl.question_batches import fitting_questions
from tspo_cli.training.rl.rl_step import RlParts, RlStep
from tspo_cli.training.rl.scoring import needs_critic
from tspo_cli.training.sft.sft_step import SftStep, demonstration_source
from tspo_cli.training.start.inputs import TrainingInputs, data_in_words, open_inputs
from tspo_cli.training.start.model_check import check_model
from tspo_cli.training.start.same_inputs import (
    input_digests,
    inputs_of_process,
    keep_or_compare_inputs,
)
from tspo_cli.training.start.start_warnings import start_warnings
from tspo_cli.variables import default_threads

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

StepMaker = Callable[[PolicyLearner, Critic | None, Engine], MakeStep]
"""Learner, critic and engine -> the function that makes the training steps."""


def train(
    config: Config,
    directory: Path,
    evaluate: Evaluate,
    *,
    attempt: int,
    resume: bool,
    judge: AnswerJudge | None = None,
) -> None:
    """Train as `config` says, in this process, together with the other processes that RANK and
    WORLD_SIZE announce.

    `directory` is a claimed run directory; `judge` gives the outcome where credit.outcome asks for
    one. Data, index and model are opened before anything is computed.

    Raises:
        InvalidInputError, MissingResourceError: data, index or model that cannot be used.
    """
    use_portable_kernels(config.train.portable)
    torch.set_num_threads(config.train.threads or default_threads())
    torch.manual_seed(config.seed)
    device = init_distributed()
    with failing_together():
        refuse_unsafe_background(config)
        refuse_impossible_transfer(config)
        inputs = open_inputs(config)
        own = inputs_of_process(config, inputs) if world_size() > 1 else {}
    with failing_together():
        require_same("has other inputs", own, "put the same files on all nodes")

    place = identity(directory)

    def failed(cause: str) -> None:
        if identity(directory) != place:
            return  # what stands there now is not ours
        status = read_status(directory)
        set_status(directory, "failed", status["step"], attempt, status["warnings"])
        log_line(directory, attempt, f"failed: {cause}")

    with watched(config.train.stall_limit, failed):
        _train(config, directory, evaluate, inputs, device, judge, attempt=attempt, resume=resume)


def _train(
    config: Config,
    directory: Path,
    evaluate: Evaluate,
    inputs: TrainingInputs,
    device: str,
    judge: AnswerJudge | None,
    *,
    attempt: int,
    resume: bool,
) -> None:

    def opened() -> tuple[PreTrainedTokenizerFast, Any]:
        if rank() == 0:
            digests = input_digests(config, inputs)
            former = partial(former_digest, config.model.path, config.model.revision)
            keep_or_compare_inputs(directory, digests, resume=resume, former_model=former)
            require_inputs_of_sweep(directory, config)
        return starting_policy(config, device)

    tokenizer, model = steady_model(config.model.path, opened)
    check_model(model, tokenizer, config)
    protocol = SearchProtocol.from_config(tokenizer, config.rollout)

    def log(message: str) -> None:
        say(message)
        log_line(directory, attempt, message)

    say_first = log if rank() == 0 else _nothing
    step_maker = _step_maker(config, directory, inputs, protocol, judge, say_first)
    updates = config.train.steps * (config.train.updates_per_step if config.kind != "sft" else 1)
    if config.lora.rank:
        add_lora(model, config.lora, config.seed)
    warnings = start_warnings(config, inputs, protocol, model) if rank() == 0 else []
    values = ValueModel(model) if needs_critic(config) else None
    learner = PolicyLearner(
        model, config, total_updates=updates, temperature=config.rollout.temperature
    )
    critic = Critic(values, config, total_updates=updates) if values is not None else None
    eos = eos_ids(model.config, model.generation_config, tokenizer)
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if rank() == 0:
        for note in (*template_notes(tokenizer, config.rollout, eos), *idle_gpus(config, gpus)):
            log(note)
    engine = _engine(learner, tokenizer, directory, log)
    if config.rollout.engine == "vllm":
        hand_over(learner, engine, protocol, config, 0)
    run = TrainingRun(
        config, directory, attempt, tokenizer, protocol, learner, engine, inputs.retriever, critic
    )
    make_step = step_maker(learner, critic, engine)
    try:
        train_loop(run, make_step, evaluate, warnings=warnings, resume=resume)
    finally:
        if isinstance(engine, VllmServers):
            engine.files.close()  # a run that was stopped keeps no memory either
    engine.close()


def _nothing(message: str) -> None:
    """What processes other than the first say."""


def _step_maker(
    config: Config,
    directory: Path,
    inputs: TrainingInputs,
    protocol: SearchProtocol,
    judge: AnswerJudge | None,
    log: Callable[[str], None],
) -> StepMaker:
    """Make the training data ready now: what is bad is reported before the learner is built."""
    if config.kind == "sft":
        source = demonstration_source(config, inputs.retriever, inputs.demonstrations)
        log(_work(config, inputs))
        return lambda learner, critic, engine: SftStep(
            config, learner, protocol, source, inputs.held_out
        )
    questions, lengths = fitting_questions(inputs.questions, protocol, config)
    log(lengths)
    log(_work(config, replace(inputs, questions=questions)))
    return lambda learner, critic, engine: RlStep(
        RlParts(
            config,
            learner,
            critic,
            engine,
            inputs.retriever,
            protocol,
            questions,
            directory,
            judge,
        )
    )


def _work(config: Config, inputs: TrainingInputs) -> str:
    """What begins: with a large model, minutes pass before the first step says anything."""
    steps = config.train.steps
    return f"training: {steps} step{'s' * (steps != 1)}, {data_in_words(config, inputs)}"


def _engine(
    learner: PolicyLearner,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    log: Callable[[str], None],
) -> Engine:
    """The rollout engine: vLLM, or transformers on the learner's own parameters or a copy of them
    (see `engine_copies_weights`).
    """
    config, core = learner.config, learner.core
    adapters = config.lora.as_adapters(bfloat16=core.is_bfloat16)
    if config.rollout.engine == "vllm":
        processes = ProcessGroup(rank(), world_size(), barrier, gather_json)
        dtype = "bfloat16" if core.is_bfloat16 else "float32"
        folder = directory / HANDOVER_NAME
        return open_vllm(
            config,
            tokenizer,
            dtype=dtype,
            folder=folder,
            processes=processes,
            log=log,
            adapters=_adapters_of(learner) if adapters else None,
            device=str(core.device),
            vocabulary=int(learner.module.config.get_text_config().vocab_size),
        )
    copies = engine_copies_weights(config, core.zero_stage, bfloat16=core.is_bfloat16)
    module = empty_model(core) if copies else learner.module
    if copies and adapters:
        add_lora(module, config.lora, config.seed)
    if copies and config.model.float32_head:
        use_float32_head(module)
    engine = TransformersEngine(
        module,
        tokenizer,
        batch_size=sequences_at_once(config),
        max_context=context_length(config),
        owns_weights=copies,
        stop_ids=stop_ids(tokenizer, config.rollout),
    )
    engine.load_weights(weights_for_engine(core) if copies else None, 0)
    return engine


def _adapters_of(learner: PolicyLearner) -> Adapters:
    """What vLLM must know to compute with the learner's adapters."""
    lora, layers = learner.config.lora, adapted_layers(learner.module)
    return Adapters(lora.rank, lora.alpha, layers, lambda: frozen_weights(learner.core))
