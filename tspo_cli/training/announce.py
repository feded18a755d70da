"""Options that change results, said before a run starts, and refused where they do not fit
together.
"""

from __future__ import annotations

from collections.abc import Iterator

from tspo_cli.config.algorithm_defaults import DEFAULTS
from tspo_cli.config.schema import Config
from tspo_cli.credit.assign import find_algorithm
from tspo_cli.errors import InvalidInputError
from tspo_cli.training.early_stop import parse_rules


def check_algorithm(config: Config) -> None:
    """Refuse what the algorithm cannot do.

    Raises:
        InvalidInputError, MissingResourceError: the first rule that is broken, in one line.
    """
    parse_rules(config.train.stop_when)
    if config.kind == "sft":
        return
    algorithm, name = find_algorithm(config.credit.algorithm), config.credit.algorithm
    if config.kind == "rejection_sampling" and name != "rejection_sampling":
        raise InvalidInputError(
            f'credit.algorithm: kind = "rejection_sampling" needs its own, not {name}; remove the '
            "key"
        )
    if config.kind == "rl" and name == "rejection_sampling":
        raise InvalidInputError(
            'credit.algorithm: rejection_sampling is imitation; set kind = "rejection_sampling"'
        )
    if algorithm.compares and config.rollout.group_size < 2:
        raise InvalidInputError(
            f"rollout.group_size: {name} compares the rollouts of a question, so give 2 or more"
        )
    batchwise = algorithm.whiten or algorithm.needs == "critic"
    if config.loss.kl > 0 and config.loss.kl_in == "reward" and not batchwise:
        raise InvalidInputError(
            f'loss.kl_in: "reward" is for ppo and reinforce_pp, not {name}; set it to "loss"'
        )
    if config.rollout.dynamic_sampling and (batchwise or config.kind != "rl"):
        raise InvalidInputError(
            f"rollout.dynamic_sampling: {name} has no groups without an advantage; set it to false"
        )


def loop_options(config: Config) -> list[str]:
    """One line per choice that peers leave silent: algorithm, reward, rollouts, updates, loss."""
    return [] if config.kind == "sft" else list(_lines(config))


def _lines(config: Config) -> Iterator[str]:
    rollout, credit, loss, train = config.rollout, config.credit, config.loss, config.train
    deviation = "none" if credit.scale == "none" else f"{credit.std} + {credit.eps:g}"
    yield (
        f"algorithm: {credit.algorithm}; trained reward: {_reward(config)}; standard deviation: "
        f"{deviation}"
    )
    yield (
        f"rollouts: {rollout.questions_per_step} questions x {rollout.group_size} a step; a group "
        "is (data set, "
        f"question, draw); budget: at most {rollout.max_searches} turns that may search, then one "
        "that may not; "
        f"temperature {rollout.temperature:g}, top-p {rollout.top_p:g}, top-k "
        f"{rollout.top_k or 'off'}"
    )
    if rollout.dynamic_sampling:
        yield (
            "dynamic sampling: groups without an advantage are replaced by up to "
            f"{rollout.max_refills} more batches"
        )
    if rollout.one_step_off:
        yield (
            "one step off: a step's rollouts are sampled while the step before trains, with the "
            "weights from before it "
            "(the first step and those after a checkpoint are on-policy); importance weights are "
            "cut at "
            f"{loss.importance_cap:g}"
        )
    if train.updates_per_step == 1:
        updates = "1 optimiser update per rollout batch: ratios stay 1 and clipping never acts"
    else:
        updates = (
            f"{train.updates_per_step} optimiser updates per rollout batch, each on its own "
            "share of the groups"
        )
    yield f"updates: {updates}"
    if config.kind == "rejection_sampling":
        yield "loss: negative log-likelihood of the kept rollouts' sampled tokens"
        return
    dual = f", dual clip {loss.dual_clip:g}" if loss.dual_clip else ""
    kl = (
        f"{loss.kl:g} in the {loss.kl_in} (k3)"
        if loss.kl and loss.kl_in == "loss"
        else f"{loss.kl:g}"
    )
    kl = f"{loss.kl:g} in the reward (log-ratio)" if loss.kl and loss.kl_in == "reward" else kl
    yield (
        f"loss: {loss.ratio} ratio clipped to [1 - {loss.clip_low:g}, 1 + "
        f"{loss.clip_high:g}]{dual}, "
        f"{loss.aggregation}, KL to the starting policy {kl}, entropy bonus {loss.entropy:g}"
    )
    if train.drop_zero_advantage and loss.entropy == 0 and (loss.kl == 0 or loss.kl_in == "reward"):
        yield (
            "rollouts without an advantage do not go through the learner (the gradient is the same)"
        )
    if find_algorithm(credit.algorithm).needs == "critic":
        own = config.critic
        yield (
            f"critic: learning rate {own.lr:g}, GAE gamma {own.gamma:g}, lambda {own.lam:g}, "
            f"value clip {own.value_clip:g}"
        )
    values = config.section_dict()
    for key, value in DEFAULTS.get(credit.algorithm, {}).items():
        section, _, leaf = key.partition(".")
        if values[section][leaf] != value:
            yield (
                f"note: {key} is {values[section][leaf]}; {credit.algorithm}'s own default is "
                f"{value}"
            )


def _reward(config: Config) -> str:
    credit = config.credit
    names = {"em": "exact match", "f1": "word F1", "em_format": "exact match and format"}
    limit = (
        f" less the overlong penalty from {credit.overlong_limit} tokens"
        if credit.overlong_limit
        else ""
    )
    return (
        names.get(credit.outcome, credit.outcome) + limit + " (reported are em and f1 in any case)"
    )
