"""Steps from which nothing can be learnt, in one sentence each: what is, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tspo_cli.config.schema import Config
from tspo_cli.console import counted, part_of
from tspo_cli.rollout.records import GroupRecord, TurnRecord
from tspo_cli.training.rl.rollout_checks import FAILED_BY_SEARCHES

_SOME_STEPS = 3
"""Steps in a row after which a thing that one step may show by chance is worth a sentence."""
_ACTIONS = ("search", "answer")
_NO_ACTION = {"no action", "all cut"}
_MOST_FAILED = 0.5
_SOME_FAILED = 0.02


@dataclass(frozen=True, slots=True)
class Trouble:
    """A thing that is wrong with a step. It is said once it was so in `steps` steps in a row."""

    name: str
    steps: int
    sentence: str


@dataclass
class StepWarnings:
    """Finds the sentences that a step earns. Each is said again only when the trouble has lasted
    ten times as long as when it was last said. `acted`: an earlier step of this process searched or
    answered, so a policy that does neither has lost the protocol.
    """

    config: Config
    acted: bool = False
    lasted: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)

    def of_step(
        self, step: int, groups: Sequence[GroupRecord], metrics: Mapping[str, float]
    ) -> list[str]:
        """The sentences to say after `step`, whose rollouts are `groups`."""
        found = list(troubles(groups, metrics, self.config, acted=self.acted))
        names = {trouble.name for trouble in found}
        self.acted |= any(
            turn["kind"] in _ACTIONS
            for group in groups
            for rollout in group["trajectories"]
            for turn in rollout["turns"]
        )
        for name in [name for name in self.lasted if name not in names]:
            del self.lasted[name]
        sentences = []
        for trouble in found:
            self.lasted[trouble.name] += 1
            if self.lasted[trouble.name] == trouble.steps * 10 ** self.said[trouble.name]:
                self.said[trouble.name] += 1
                lasted = self.lasted[trouble.name]
                when = f"step {step}" if lasted == 1 else f"steps {step - lasted + 1} to {step}"
                sentences.append(f"{when}: {trouble.sentence}")
        return sentences


def troubles(
    groups: Sequence[GroupRecord],
    metrics: Mapping[str, float],
    config: Config,
    *,
    acted: bool = False,
) -> Iterator[Trouble]:
    """What is wrong with a step, the causes of having nothing to learn from before its signs.
    `acted`: rollouts of earlier steps searched or answered.
    """
    yield from _failures(groups, metrics)
    rollouts = [rollout for group in groups for rollout in group["trajectories"]]
    turns = [turn for rollout in rollouts for turn in rollout["turns"]]
    if not turns:
        return
    searches = [turn for turn in turns if turn["kind"] == "search"]
    yield from _empty_searches(searches, config)
    # Rollouts that searched may be those that failed: the policy did act.
    failed_in_action = any(
        turn["kind"] in _ACTIONS
        for group in groups
        for rollout in group.get("failed", [])
        for turn in rollout["turns"]
    )
    cause = None if failed_in_action else _no_action(turns, config, acted)
    if cause is None and config.kind == "rejection_sampling" and metrics.get("imitated") == 0:
        several = f"none of the {len(rollouts)} rollouts was"
        none = "the only rollout was not" if len(rollouts) == 1 else several
        cause = Trouble(
            "imitated",
            1,
            f"nothing was imitated, because {none} good enough "
            "(reward at most "
            f"{max(rollout.get('outcome', 0.0) for rollout in rollouts):.3f}), so nothing was "
            'learnt; warm-start the model (kind = "sft"), raise rollout.group_size, or lower '
            "credit.rejection_sampling.keep_above",
        )
    answered = any(rollout["answer"] is not None for rollout in rollouts)
    if cause is None and not (answered or failed_in_action):
        cause = Trouble(
            "answered",
            _SOME_STEPS,
            "no rollout gave an answer, so every reward was 0; warm-start the model "
            '(kind = "sft"), or raise rollout.max_new_tokens or rollout.max_searches',
        )
    if cause is None:
        rewards = [rollout.get("outcome", 0.0) for rollout in rollouts]
        cause = _no_difference(rewards, metrics, config.credit.algorithm)
    if cause is not None:
        yield cause
    cut = sum(turn["kind"] == "truncated" for turn in turns)
    if cut > len(turns) / 2 and (cause is None or cause.name not in _NO_ACTION):
        yield Trouble(
            "cut",
            _SOME_STEPS,
            f"{part_of(cut, len(turns), 'turn', 'of the last step was', 'of the last step were')} "
            f"cut at rollout.max_new_tokens = {config.rollout.max_new_tokens} before an action; "
            "raise it, or shorten the demonstrations' thoughts",
        )


def _failures(groups: Sequence[GroupRecord], metrics: Mapping[str, float]) -> Iterator[Trouble]:
    share = metrics.get("failed_share", 0.0)
    if share > _SOME_FAILED:
        yield from _bias_of_failures(share, metrics)
    if share <= _MOST_FAILED:
        return
    failed = [rollout for group in groups for rollout in group.get("failed", [])]
    errors = [turn["search_error"] for rollout in failed for turn in rollout["turns"]]
    errors += [rollout.get("judge_error") for rollout in failed]
    reason = next((error for error in errors if error), "later than rollout.trajectory_deadline")
    yield Trouble(
        "failed",
        1,
        f"{share:.0%} of the rollouts failed and were not trained on, such as: {reason}; check the "
        "retriever (or the judge), rollout.turn_deadline and rollout.trajectory_deadline",
    )


def _bias_of_failures(share: float, metrics: Mapping[str, float]) -> Iterator[Trouble]:
    by_searches = {
        int(name.removeprefix(FAILED_BY_SEARCHES)): value
        for name, value in metrics.items()
        if name.startswith(FAILED_BY_SEARCHES)
    }
    searched = {number: value for number, value in by_searches.items() if number}
    if len(searched) < 2:
        return
    fewest, most = min(searched), max(searched)
    if searched[most] > searched[fewest]:
        yield Trouble(
            "bias of failures",
            _SOME_STEPS,
            f"{share:.0%} of the rollouts of the last step failed: {searched[most]:.0%} of those "
            f"with {most} searches, {searched[fewest]:.0%} of those with {fewest}. They are not "
            "trained on, and the rest prefers few searches; make the retriever answer in time "
            "(rollout.turn_deadline, retriever.concurrency)",
        )


def _no_action(turns: Sequence[TurnRecord], config: Config, acted: bool) -> Trouble | None:
    if any(turn["kind"] in _ACTIONS for turn in turns):
        return None
    cut = sum(turn["kind"] == "truncated" for turn in turns)
    limit = f"rollout.max_new_tokens = {config.rollout.max_new_tokens}"
    nothing = "no rollout searched or answered, so all rewards are equal and nothing can be learnt"
    if acted:
        return Trouble(
            "no action",
            1,
            f"{nothing} ({part_of(cut, len(turns), 'turn', 'was', 'were')} cut at {limit}): "
            "earlier steps did, so the policy has lost the protocol; begin again with a lower "
            f"optimizer.lr ({config.optimizer.lr:g} here) or with loss.kl",
        )
    if cut == len(turns):
        every = "the only turn was" if cut == 1 else f"all {cut} turns were"
        return Trouble(
            "all cut",
            1,
            f"{nothing} ({every} cut at {limit} before an action); raise that limit, "
            'or warm-start the model (kind = "sft") so that it acts sooner',
        )
    return Trouble(
        "no action",
        1,
        f"{nothing} ({len(turns)} of {counted(len(turns), 'turn')} without a complete tag, {cut} "
        f"cut at {limit}): this model does not know the protocol; warm-start it (kind = "
        '"sft") or change rollout.prompt',
    )


def _empty_searches(searches: Sequence[TurnRecord], config: Config) -> Iterator[Trouble]:
    if not searches or any(turn["passages"] for turn in searches):
        return
    failed = [turn["search_error"] for turn in searches if turn["search_error"]]
    why = f"; {len(failed)} failed, such as: {failed[0]}" if failed else ""
    several = f"none of the {len(searches)} searches found a"
    none = "the only search found no" if len(searches) == 1 else several
    yield Trouble(
        "passages",
        1,
        f"{none} passage, so no answer can be read in one{why}; check the retriever with `tspo "
        "index search` and queries of `tspo inspect`",
    )


def _no_difference(
    rewards: Sequence[float], metrics: Mapping[str, float], algorithm: str
) -> Trouble | None:
    """Equal rewards, or no advantage anywhere."""
    equal = len(set(rewards)) == 1
    if metrics.get("groups/nonzero_advantage", 1.0) > 0 and not equal:
        return None
    learnt = metrics.get("groups/nonzero_advantage", 1.0) > 0
    what = (
        f"the reward was {rewards[0]:.3f} in all rollouts of the last step"
        if equal
        else "all rollouts of each question had the same reward"
    )
    effect = "" if learnt else " and no turn got an advantage, so nothing was learnt"
    start = 'a warm start (kind = "sft")'
    others = (
        f"or {start}"
        if algorithm == "tspo"
        else f"{start}, or an algorithm that rewards turns (credit.algorithm = tspo)"
    )
    cure = (
        "the questions are too easy: take harder ones"
        if equal and rewards[0] > 0.99
        else "take easier questions, more rollouts (rollout.group_size, "
        f"rollout.questions_per_step), {others}"
    )
    return Trouble("equal rewards", _SOME_STEPS, f"{what}{effect}; {cure}")
