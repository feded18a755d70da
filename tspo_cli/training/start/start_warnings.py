"""Settings that will waste a run or harm the model, in one sentence each, before the first step:
what is, why it matters, what to do.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.config.sections.agent_defaults import agent_comparison
from tspo_cli.config.sections.prompt_value import prompt_name
from tspo_cli.config.tables import flatten
from tspo_cli.config.unused_settings import unused_settings
from tspo_cli.console import agreeing, counted, part_of
from tspo_cli.models.chat_template import template_warnings
from tspo_cli.models.checks.length_limits import context_warnings, positions
from tspo_cli.models.tokenizer_protocol import encode
from tspo_cli.retrieval.index.other_corpus import OTHER_CORPUS, is_other_corpus
from tspo_cli.retrieval.types import Hit, unseen
from tspo_cli.rollout.limit_warnings import (
    depth_warnings,
    observation_warnings,
    rounded,
    spread,
    waiting_warnings,
)
from tspo_cli.rollout.prompts import SHORT
from tspo_cli.rollout.protocol import SearchProtocol, search_action
from tspo_cli.text.secrets import without_secrets
from tspo_cli.training.core.sequences import ScriptedTrajectory
from tspo_cli.training.early_stop import idle_rules
from tspo_cli.training.rl.scoring import needs_critic
from tspo_cli.training.start.inputs import TrainingInputs

LARGE_MODEL, LARGE_MODEL_OF_SFT = 50_000_000, 500_000_000
"""Trained parameters from which a rate for toy models is too high, in SFT and elsewhere: imitation
bears larger steps than a policy gradient.
"""
TOY_RATE = 1e-4
_THOUGHT = "I need to find out more about this."


def start_warnings(
    config: Config, inputs: TrainingInputs, protocol: SearchProtocol, model: Any
) -> list[str]:
    """All sentences about a run of `config` with this data and this model (adapters included)."""
    return [
        *_secrets(config),
        *unused_settings(config),
        *_idle_rules(config),
        *template_warnings(protocol.tokenizer, config.rollout),
        *waiting_warnings(config),
        *_learning_rates(config, model),
        *_other_agent(config),
        *context_warnings(context_length(config), positions(model)),
        *(_demonstrations(config, inputs, protocol) if inputs.demonstrations else ()),
        *(_turns(config, inputs, protocol) if inputs.questions else ()),
        *_observations(config, inputs, protocol),
        *_corpus(config, inputs),
    ]


def _idle_rules(config: Config) -> list[str]:
    holds_out = bool(config.data.held_out or config.data.held_out_share)
    measured_every = config.eval.every if holds_out else None
    return idle_rules(config.train.stop_when, config.kind, config.train.steps, measured_every)


def _secrets(config: Config) -> Iterator[str]:
    for name, value in flatten(config.section_dict()).items():
        for url in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            if isinstance(url, str) and without_secrets(url) != url and "\n" not in url:
                yield (
                    f"{name}: {without_secrets(url)} holds a secret, which the run's configuration "
                    "keeps for you alone; "
                    "name the server without it and give its token in an environment variable"
                )


def trained_parameters(model: Any) -> int:
    """Numbers that training changes: the adapters where there are some."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _learning_rates(config: Config, model: Any) -> Iterator[str]:
    trained = trained_parameters(model)
    if config.lora.rank or trained <= (LARGE_MODEL_OF_SFT if config.kind == "sft" else LARGE_MODEL):
        return
    usual = "1e-5" if config.kind == "sft" else "1e-6"
    rates = {"optimizer.lr": config.optimizer.lr}
    if needs_critic(config):
        rates["critic.lr"], usual = config.critic.lr, "1e-6 (a critic: 1e-5)"
    for key, rate in rates.items():
        if rate >= TOY_RATE:
            yield (
                f"{key}: {rate:g} is a rate for toy models, and it trains all {trained:,} "
                f"parameters, which can ruin the model; use about {usual}, or adapters (lora.rank)"
            )


def _other_agent(config: Config) -> Iterator[str]:
    _, differing = agent_comparison(config)
    for key, (here, there) in differing.items():
        yield (
            f"{key}: {prompt_name(here)} here, but {config.model.path} was trained with "
            f"{prompt_name(there)}; remove the key to take the model's, or keep it if you mean it"
        )


def _turns(config: Config, inputs: TrainingInputs, protocol: SearchProtocol) -> Iterator[str]:
    if not config.rollout.max_searches:
        return
    # The short style asks for no thought.
    thinks = config.rollout.prompt != SHORT.name
    turn = "a short thought and a search" if thinks else "a search"
    lengths = []
    for question in spread(inputs.questions):
        action = search_action(_THOUGHT, question.question)
        text = action if thinks else action[action.index("<search>") :]
        lengths.append(len(encode(protocol.tokenizer, text)))
    median = round(statistics.median(lengths))
    limit = config.rollout.max_new_tokens
    if limit < median:
        yield (
            f"rollout.max_new_tokens: {agreeing(limit, 'token does', 'tokens do')} not hold {turn} "
            f"for the question itself ({median} in the median of the training questions), so turns "
            f"will be cut before they act; set {rounded(2 * median)} or more (default: 500)"
        )


def _observations(
    config: Config, inputs: TrainingInputs, protocol: SearchProtocol
) -> Iterator[str]:
    asked = inputs.questions or inputs.demonstrations
    questions = [item.question for item in asked]
    yield from observation_warnings(config, inputs.retriever, questions, protocol)
    yield from depth_warnings(
        config, inputs.retriever, questions, searches=config.rollout.max_searches
    )


def _corpus(config: Config, inputs: TrainingInputs) -> Iterator[str]:
    if is_other_corpus(inputs.questions, inputs.retriever):
        yield f"retriever.index: {config.retriever.index}: {OTHER_CORPUS}"


def _demonstrations(
    config: Config, inputs: TrainingInputs, protocol: SearchProtocol
) -> Iterator[str]:
    rollout, total = config.rollout, len(inputs.demonstrations)
    turns, searches, cut, observations = 0, 0, 0, 0
    for demonstration in inputs.demonstrations:
        lengths = [len(protocol.action_ids(turn.text)) for turn in demonstration.turns]
        turns += max(lengths) > rollout.max_new_tokens
        searches += sum(turn.searches for turn in demonstration.turns) > rollout.max_searches
        for turn in demonstration.turns:
            if turn.searches:
                observations += 1
                tokens = protocol.shown_tokens(turn.passages(protocol))
                cut += tokens > rollout.max_observation_tokens
    if turns:
        yield (
            "rollout.max_new_tokens: "
            f"{part_of(turns, total, 'demonstration', 'has', 'have')} a turn of more than "
            f"{counted(rollout.max_new_tokens, 'token')}, which the agent can never finish; raise "
            "it"
        )
    if searches:
        yield (
            "rollout.max_searches: "
            f"{part_of(searches, total, 'demonstration', 'searches', 'search')} more than "
            f"{counted(rollout.max_searches, 'time')}, which the agent may not; raise it"
        )
    repeated = sum(map(_reads_again, inputs.demonstrations)) if rollout.exclude_seen else 0
    if repeated:
        yield (
            "rollout.exclude_seen: "
            f"{part_of(repeated, total, 'demonstration', 'reads', 'read')} a passage of an earlier "
            "search again, which the agent never does; make them with tspo data make-demos "
            "--exclude-seen, or leave it off"
        )
    if cut > observations / 2:
        yield (
            f"rollout.max_observation_tokens: the passages of {cut} of "
            f"{counted(observations, 'search', 'es')} in the demonstrations are cut at "
            f"{counted(rollout.max_observation_tokens, 'token')}, so answers may be trained that "
            "their passages do not hold; raise it"
        )


def _reads_again(demonstration: ScriptedTrajectory) -> bool:
    """Whether a search gives a passage of an earlier one."""
    seen: list[Hit] = []
    for turn in demonstration.turns:
        if len(unseen(turn.hits, seen)) < len(turn.hits):
            return True
        seen += turn.hits
    return False
