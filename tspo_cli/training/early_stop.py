"""Rules that end a run early: `METRIC < NUMBER for N`, true in each of the last N steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError

SFT_METRICS = frozenset({"loss", "agent_loss", "eval_loss", "grad_norm", "lr", "tokens"})
"""What a step of supervised training may measure."""
_RL_METRICS = """
reward em f1 judge judge_agreement judge_only em_only false_positive_rate
groups/all_correct groups/mixed groups/all_wrong_near_miss groups/all_miss
groups/zero_signal_grpo groups/recovered_by_folr groups/success groups/near_miss groups/miss
groups/nonzero_advantage groups/first_occurrence_1 groups/first_occurrence_2
groups/first_occurrence_3 groups/first_occurrence_4 groups/first_occurrence_5_up
groups/first_occurrence_mean
rollouts sampled_tokens searches turns response_tokens invalid_share invalid_calls
truncated_share answered_share failed_share mixed_share dropped refills trained_groups imitated
questions/recycled questions/skipped questions/waiting questions/seen
tree/rollouts tree/branches tree/shared_share tree/searches tree/sampled_tokens tree/flat_tokens
broken_tag_share repeated_query_share duplicate_result_share correct_logprob
lr_lowered resets lr_scale
loss agent_loss policy_loss kl entropy clip_fraction ratio_mean ratio_max grad_norm lr tokens
value_loss critic_grad_norm critic_lr
parity parity_p99 mismatch_kl handover_parity staleness drift
importance_mean importance_max importance_cut effective_sample_share
"""
RL_METRICS = frozenset(_RL_METRICS.split())
"""What a step of reinforcement learning or rejection sampling may measure, beside
`failed_share/searches_N`; docs/metrics.md explains each.
"""
_BY_SEARCHES = re.compile(r"failed_share/searches_\d+")
_RULE = re.compile(
    r"\s*([\w/]+)\s*([<>])\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s+for\s+([1-9]\d*)\s*"
)


@dataclass(frozen=True, slots=True)
class StopRule:
    """`metric` below (or above) `limit` in each of the last `steps` steps."""

    text: str
    metric: str
    below: bool
    limit: float
    steps: int

    def holds(self, rows: Sequence[Mapping[str, float]]) -> bool:
        """True if the rule holds; `rows` are the metrics of all steps so far. It does not hold if
        one of the last steps lacks the metric.
        """
        last = rows[-self.steps :]
        return len(last) == self.steps and all(
            self.metric in row
            and (row[self.metric] < self.limit if self.below else row[self.metric] > self.limit)
            for row in last
        )


def idle_rules(
    texts: Sequence[str], kind: str, steps: int, measured_every: int | None
) -> list[str]:
    """A sentence for each rule that cannot hold within the `steps` of a run. eval_loss is
    `measured_every` so many steps (0: at the end alone; None: never). Raises as `parse_rules`.
    """
    said = []
    for rule in parse_rules(texts, kind):
        opening = f'train.stop_when: "{rule.text}" looks at {counted(rule.steps, "step")}'
        if rule.steps > steps:
            run = f"the run has {counted(steps, 'step')}"
            said.append(f"{opening}, and {run}, so it never ends it; name fewer")
        elif rule.metric != "eval_loss":
            continue
        elif measured_every is None:
            said.append(
                f'train.stop_when: "{rule.text}" never ends the run, because no demonstration is '
                "held out; set data.held_out or data.held_out_share"
            )
        elif rule.steps > 1 and measured_every != 1:
            when = f"every {measured_every} steps (eval.every)" if measured_every else "at the end"
            said.append(
                f"{opening} in a row, and eval_loss is measured {when}, so it never ends the run; "
                "name 1"
            )
    return said


def parse_rules(texts: Sequence[str], kind: str) -> list[StopRule]:
    """The rules of train.stop_when of a run of this kind.

    Raises:
        InvalidInputError: a text that is not a rule, or whose metric no step of the kind has.
    """
    rules = []
    for text in texts:
        match = _RULE.fullmatch(text)
        if match is None:
            raise InvalidInputError(
                f'train.stop_when: expected "METRIC < NUMBER for STEPS" (or >), got "{text}"'
            )
        metric, sign, limit, steps = match.groups()
        known = SFT_METRICS if kind == "sft" else RL_METRICS
        if metric not in known and (kind == "sft" or not _BY_SEARCHES.fullmatch(metric)):
            near = get_close_matches(metric, sorted(known), n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}"
            raise InvalidInputError(
                f'train.stop_when: "{text}": no step of kind = "{kind}" has a metric {metric}; '
                f"{hint}"
            )
        rules.append(StopRule(text.strip(), metric, sign == "<", float(limit), int(steps)))
    return rules
