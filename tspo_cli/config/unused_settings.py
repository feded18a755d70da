"""Settings of a valid configuration that have no effect, so that nobody waits for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from tspo_cli.config.schema import Config, RetrieverConfig
from tspo_cli.config.tables import Table, flatten
from tspo_cli.credit.algorithms import ALGORITHMS
from tspo_cli.credit.find_algorithm import find_algorithm

_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class _Need:
    """What keys need, in words, and whether a configuration has it. A key that ends in a dot stands
    for all below it.
    """

    keys: tuple[str, ...]
    words: str
    is_met: Callable[[Config], bool]


# Values that users give to a run which does not read them. Keys that shipped recipes pin for
# several kinds of runs (retries of a server, the sleep of vLLM) are not among them.
_NEEDS = (
    _Need(
        ("judge.",),
        'training asks a judge only where credit.outcome is "judge"',
        lambda c: c.kind != "sft" and c.credit.outcome == "judge",
    ),
    _Need(("endpoint.",), "only tspo eval asks an endpoint", lambda c: False),
    _Need(
        ("eval.answer", "eval.examples", "eval.processes", "eval.portion"),
        "only tspo eval reads this",
        lambda c: False,
    ),
    _Need(
        ("eval.limit", "eval.temperature", "eval.at_start"),
        "eval.data names no question file",
        lambda c: bool(c.eval.data),
    ),
    _Need(
        ("checkpoint.best",),
        "training does not evaluate in between (eval.every, eval.data)",
        lambda c: c.checkpoint.best == "none" or bool(c.eval.every and c.eval.data),
    ),
    _Need(
        ("model.hidden_size", "model.layers", "model.copy_prior"),
        "it shapes a new tiny policy, and model.path names a model",
        lambda c: not c.model.path,
    ),
    _Need(
        ("model.revision", "model.float32_head"),
        "data.world makes a new policy (model.path is empty)",
        lambda c: bool(c.model.path) or not c.data.world,
    ),
    _Need(
        ("model.dtype",),
        "data.world makes a new policy in float32 (model.path is empty)",
        lambda c: bool(c.model.path) or not c.data.world or c.model.dtype == "float32",
    ),
    _Need(
        ("data.demonstrations", "data.world", "data.rename_entities", "demonstrations."),
        'only kind = "sft" reads this',
        lambda c: c.kind == "sft",
    ),
    _Need(
        ("data.rename_entities", "demonstrations."),
        "data.world is not set",
        lambda c: c.kind != "sft" or bool(c.data.world),
    ),
    _Need(
        (
            *("data.train", "data.too_long", "tree.", "train.updates_per_step"),
            *("train.keep_rollouts", "rollout.questions_per_step", "rollout.group_size"),
            *("rollout.dynamic_sampling", "rollout.one_step_off", "rollout.temperature"),
            *("credit.algorithm", "credit.outcome"),
        ),
        'kind = "sft" has no rollouts',
        lambda c: c.kind != "sft",
    ),
    _Need(
        ("train.batch_size", "loss.context_weight"),
        'only kind = "sft" reads this',
        lambda c: c.kind == "sft",
    ),
    _Need(
        ("loss.embedding_noise",), 'it is for imitation, and kind is "rl"', lambda c: c.kind != "rl"
    ),
    _Need(
        ("retriever.index", "retriever.url", "retriever.qdrant.url"),
        "rollout.max_searches is 0",
        lambda c: c.rollout.max_searches > 0 or bool(c.data.world),
    ),
    _Need(
        ("vllm.url", "vllm.token_file", "vllm.tensor_parallel"),
        'it is for rollout.engine = "vllm"',
        lambda c: c.rollout.engine == "vllm",
    ),
    _Need(
        ("data.recycle_after", "data.recycle_most"),
        "data.recycle is 0",
        lambda c: c.data.recycle > 0,
    ),
    _Need(
        ("data.curriculum_floor",),
        'data.curriculum is "none"',
        lambda c: c.data.curriculum != "none",
    ),
    _Need(
        ("rollout.max_refills",),
        "rollout.dynamic_sampling is false",
        lambda c: c.rollout.dynamic_sampling,
    ),
    _Need(("tree.",), 'tree.branching is "none"', lambda c: c.kind == "sft" or c.tree.grows),
    _Need(
        ("tree.least_gain",),
        'it is for tree.branching = "after_search"',
        lambda c: not c.tree.grows or c.tree.branching == "after_search",
    ),
    _Need(
        ("tree.max_rollouts",),
        'it is for tree.budget = "tokens"',
        lambda c: not c.tree.grows or c.tree.budget == "tokens",
    ),
    _Need(
        ("critic.",),
        "the algorithm has no critic",
        lambda c: c.kind != "sft" and "critic" in find_algorithm(c.credit.algorithm).needs,
    ),
    _Need(
        ("lora.alpha", "lora.dropout", "lora.targets", "lora.handover"),
        "lora.rank is 0",
        lambda c: c.lora.rank > 0,
    ),
    _Need(
        ("optimizer.final_lr",),
        'it is for optimizer.schedule = "linear"',
        lambda c: c.optimizer.schedule == "linear",
    ),
    _Need(("loss.kl_in",), "loss.kl is 0", lambda c: c.loss.kl > 0),
    _Need(
        ("loss.sum_length",),
        'it is for loss.aggregation = "sequence_sum"',
        lambda c: c.loss.aggregation == "sequence_sum",
    ),
    _Need(
        ("credit.format_score", "credit.final_format_score", "credit.retrieval_score"),
        'it is for credit.outcome = "em_format"',
        lambda c: c.credit.outcome == "em_format" or _has_own_rule(c),
    ),
    _Need(
        ("credit.no_search_penalty", "credit.no_answer_penalty"),
        'it is for credit.outcome = "f1_plus"',
        lambda c: c.credit.outcome == "f1_plus" or _has_own_rule(c),
    ),
    _Need(
        ("credit.length_unit", "credit.length_free"),
        "credit.length_penalty is 0",
        lambda c: c.credit.length_penalty > 0 or _has_own_rule(c),
    ),
    _Need(
        ("credit.overlong_buffer", "credit.overlong_penalty"),
        "credit.overlong_limit is 0",
        lambda c: c.credit.overlong_limit > 0 or _has_own_rule(c),
    ),
    _Need(
        ("collapse.lr_factor",),
        'it is for train.on_warning = "lower_lr"',
        lambda c: c.train.on_warning == "lower_lr",
    ),
    _Need(
        ("collapse.most",),
        'it is for train.on_warning = "lower_lr" and "reset_to_best"',
        lambda c: c.train.on_warning in ("lower_lr", "reset_to_best"),
    ),
    _Need(
        ("retriever.qdrant.collection", "retriever.qdrant.encoder", "retriever.qdrant.vector"),
        "retriever.qdrant.url is not set",
        lambda c: bool(c.retriever.qdrant.url),
    ),
    _Need(
        ("retriever.servers", "retriever.approximate_shards"),
        "retriever.url names no servers",
        lambda c: bool(c.retriever.url),
    ),
    _Need(("track.wandb_project",), "track.wandb is false", lambda c: c.track.wandb),
    _Need(
        ("deepspeed.offload_reference",),
        "no reference policy is kept (loss.kl)",
        lambda c: c.loss.kl > 0 or c.loss.log_kl,
    ),
)


_EVALUATION_NEEDS = (
    _Need(("judge.",), "judge.url is not set", lambda c: bool(c.judge.url)),
    _Need(("endpoint.",), "endpoint.url is not set", lambda c: bool(c.endpoint.url)),
    _Need(
        (
            *("data.", "demonstrations.", "tree.", "loss.", "optimizer.", "critic.", "checkpoint."),
            *("collapse.", "launch.", "deepspeed.", "track.", "eval.data", "eval.every"),
            *("eval.at_start", "credit.algorithm", "credit.outcome", "train.steps"),
        ),
        "only tspo train reads this",
        lambda c: False,
    ),
)


def unused_settings(config: Config) -> Iterator[str]:
    """Settings of a valid configuration that its training does not use, a sentence each."""
    yield from unused_retrievers(config.retriever)
    given = _given(config)
    yield from _without_need(config, given, _NEEDS)
    if config.kind == "sft" or _has_own_rule(config):  # a rule of the user's own may read all
        return
    algorithm = find_algorithm(config.credit.algorithm)
    if config.credit.options:
        yield f"{algorithm.name} does not use [credit.options]"
    for other in ALGORITHMS.values():
        names = [key for key in given if key.startswith(f"credit.{other.table}.")]
        if names and other.table != algorithm.table:
            yield _sentence(names, f"credit.algorithm is {algorithm.name}")


def unused_in_evaluation(config: Config) -> Iterator[str]:
    """Settings that `tspo eval` does not use, a sentence each."""
    yield from unused_retrievers(config.retriever)
    yield from _without_need(config, _given(config), _EVALUATION_NEEDS)


def unused_retrievers(retriever: RetrieverConfig) -> Iterator[str]:
    """A sentence that names the retriever in use and the others, where several are set."""
    addresses = {
        "retriever.index": retriever.index,
        "retriever.url": ",".join(retriever.url),
        "retriever.qdrant.url": retriever.qdrant.url,
    }
    used, *unused = [f"{key} ({value})" for key, value in addresses.items() if value] or [""]
    if unused:
        yield f"passages come from {used}, not from {' or '.join(unused)}"


def _without_need(config: Config, given: list[str], needs: Sequence[_Need]) -> Iterator[str]:
    for need in needs:
        names = [key for key in given if key.startswith(need.keys)]
        if names and not need.is_met(config):
            yield _sentence(names, need.words)


def _sentence(names: list[str], reason: str) -> str:
    rest = len(names) - _MOST_NAMED
    listed = ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return f"{listed}: no effect, because {reason}"


def _has_own_rule(config: Config) -> bool:
    return config.credit.algorithm not in ALGORITHMS


def _given(config: Config) -> list[str]:
    """The keys whose values are neither the schema's defaults nor those of the algorithm."""
    usual = _defaults()
    own = {} if config.kind == "sft" else find_algorithm(config.credit.algorithm).defaults
    return [
        key
        for key, value in flatten(config.section_dict()).items()
        if usual.get(key) != value and own.get(key) != value
    ]


@cache
def _defaults() -> Table:
    return flatten(Config().section_dict())
