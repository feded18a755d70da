"""A run in words: the choices that change its results, printed before it starts, and its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tspo_cli.config.schema import Config
from tspo_cli.config.sections.agent_defaults import agent_comparison
from tspo_cli.config.sections.prompt_value import prompt_name
from tspo_cli.config.tables import flatten
from tspo_cli.console import agreeing, counted, duration
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.variables import number_in


def loop_options(config: Config) -> list[str]:
    """One line per choice that peers leave silent: what the model's own training decides,
    algorithm, reward, rollouts, updates, loss.
    """
    taken, _ = agent_comparison(config)
    lines = [] if config.kind == "sft" else list(_lines(config))
    if taken:
        values = ", ".join(f"{key} {prompt_name(value)}" for key, value in taken.items())
        lines.insert(0, f"as {config.model.path} was trained: {values}")
    return lines


def idle_gpus(config: Config, gpus: int) -> Iterator[str]:
    """A line where a node shows more GPUs than training processes use."""
    processes = number_in("LOCAL_WORLD_SIZE", config.train.processes) or 1
    if processes < gpus:
        yield (
            f"training uses {processes} of {gpus} GPUs (train.processes); `tspo launch` uses all "
            "that no server has, and CUDA_VISIBLE_DEVICES hides those of others"
        )


def step_line(metrics: Mapping[str, float], seconds: float, left: float) -> str:
    """A training step in one line: what it reached, `seconds` it took, and seconds `left` of the
    run.
    """
    parts = [f"{name} {metrics[name]:.3f}" for name in ("reward", "loss") if name in metrics]
    if "agent_loss" in metrics:
        parts.append(f"agent_loss {metrics['agent_loss']:.3f}")
    if "answered_share" in metrics:
        parts.append(f"answered {metrics['answered_share']:.0%}")
    if "searches" in metrics:
        parts.append(f"searches {metrics['searches']:.1f}")
    if metrics.get("failed_share"):
        parts.append(f"failed {metrics['failed_share']:.0%}")
    if "dropped" in metrics:
        parts.append(f"dropped {metrics['dropped']:g}/{metrics.get('rollouts', 0):g}")
    took = f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"
    return " ".join([*parts, f"{took} s/step", f"{duration(left)} left"])


def _lines(config: Config) -> Iterator[str]:
    rollout, credit, loss, train = config.rollout, config.credit, config.loss, config.train
    deviation = "none" if credit.scale == "none" else f"{credit.std} + {credit.eps:g}"
    yield (
        f"algorithm: {credit.algorithm}; trained reward: {_reward(config)}; standard deviation: "
        f"{deviation}"
    )
    yield (
        f"rollouts: {counted(rollout.questions_per_step, 'question')} x {_rollouts(config)} "
        f"a step; a group "
        "is (data set, "
        f"question, draw); budget: at most {counted(rollout.max_searches, 'turn')} that may "
        f"search, then one "
        f"that may not; {'no passage twice; ' if rollout.exclude_seen else ''}"
        f"temperature {rollout.temperature:g}, top-p {rollout.top_p:g}, top-k "
        f"{rollout.top_k or 'off'}"
    )
    if rollout.dynamic_sampling:
        yield (
            "dynamic sampling: groups without an advantage are replaced by up to "
            f"{counted(rollout.max_refills, 'more batch', 'es')}"
        )
    if rollout.one_step_off:
        yield (
            "one step off: a step's rollouts are sampled while the step before trains, with the "
            "weights from before it "
            "(the first step and those after a checkpoint are on-policy); "
            f"one importance weight for each {loss.ratio}{_beyond(config)}"
        )
    if train.updates_per_step == 1:
        updates = (
            "1 optimiser update per rollout batch: but for rounding, ratios stay 1 and clipping "
            "never acts"
        )
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
    yield f"engine and learner: {_mismatch(config)}"
    if train.drop_zero_advantage and loss.entropy == 0 and (loss.kl == 0 or loss.kl_in == "reward"):
        yield (
            "rollouts without an advantage do not go through the learner (the gradient is the same)"
        )
    algorithm = find_algorithm(credit.algorithm)
    if "critic" in algorithm.needs:
        critic = config.critic
        yield (
            f"critic: learning rate {critic.lr:g}, GAE gamma {critic.gamma:g}, lambda "
            f"{critic.lam:g}, value clip {critic.value_clip:g}"
        )
    values = flatten(config.section_dict())
    for key, value in algorithm.defaults.items():
        if values[key] != value:
            yield f"note: {key} is {values[key]}; the default of {algorithm.name} is {value}"


def _rollouts(config: Config) -> str:
    """The rollouts of a question, or the trees that they form."""
    size, tree = config.rollout.group_size, config.tree
    if not tree.grows:
        return str(size)
    budget = (
        counted(size, "rollout")
        if tree.budget == "rollouts"
        else f"the tokens of {counted(size, 'rollout')}"
    )
    roots = agreeing(
        tree.roots, "whole rollout and its branches", "whole rollouts and their branches"
    )
    return f"trees of {roots} ({budget})"


def _mismatch(config: Config) -> str:
    loss = config.loss
    weights = f"one importance weight for each {loss.mismatch_ratio}"
    rounding = "where they round differently (bfloat16, vLLM), " if loss.mismatch == "auto" else ""
    if loss.mismatch == "none" or (loss.mismatch == "auto" and loss.old_logprobs == "engine"):
        return "no importance weights correct their rounding"
    return f"{rounding}{weights}{_beyond(config)}"


def _beyond(config: Config) -> str:
    """What becomes of large importance weights."""
    cap = f"{config.loss.importance_cap:g}"
    if config.loss.mismatch == "mask":
        return f"; tokens with a weight above {cap} or below 1/{cap} are left out"
    return f", cut at {cap}"


def _reward(config: Config) -> str:
    credit = config.credit
    names = {
        "em": "exact match",
        "f1": "word F1",
        "f1_plus": "word F1 less penalties",
        "em_format": "exact match and format",
        "judge": f"verdict of {config.judge.model}",
    }
    limit = (
        f" less the overlong penalty from {counted(credit.overlong_limit, 'token')}"
        if credit.overlong_limit
        else ""
    )
    return (
        names.get(credit.outcome, credit.outcome) + limit + " (reported are em and f1 in any case)"
    )
