"""Metrics that show trouble before the score does, from the records of a step's rollouts."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.diagnostics import false_positive_rate
from tspo_cli.credit.from_rollouts import group_from_record
from tspo_cli.credit.gold_match import exact_match, f1_score
from tspo_cli.credit.outcome import well_formed
from tspo_cli.data.normal_form import normalize_text
from tspo_cli.rollout.records import GroupRecord, RolloutRecord, distinct_turns_of
from tspo_cli.training.rl.rollout_records import mean


def warning_metrics(groups: Sequence[GroupRecord], config: CreditConfig) -> dict[str, float]:
    """Metrics of the recorded groups (see `rollouts/` of a run).

    em, f1: of the rollouts' answers, whatever reward is trained. broken_tag_share: turns without
    exactly one action and balanced think tags. repeated_query_share: searches with the words of an
    earlier search of the same rollout. duplicate_result_share: passages that the rollout had seen
    before. correct_logprob: log-probability per sampled token (nats) of the correct rollouts;
    absent where none is correct. false_positive_rate: rollouts in which the gold answer of another
    question "occurs". rollouts and sampled_tokens: counts of the step; tokens that rollouts share
    count once.
    """
    rollouts = [(group, rollout) for group in groups for rollout in group["trajectories"]]
    turns = [turn for _, rollout in rollouts for turn in rollout["turns"]]
    repeated, searches, seen_again, passages = 0, 0, 0, 0
    for _, rollout in rollouts:
        queries, documents = set[str](), set[str]()
        for turn in rollout["turns"]:
            if turn["kind"] == "search":
                searches += 1
                words = normalize_text(turn["query"] or "")
                repeated += words in queries
                queries.add(words)
            for passage in turn["passages"]:
                passages += 1
                seen_again += passage["id"] in documents
                documents.add(passage["id"])
    answers = [(rollout["answer"], group["golden_answers"]) for group, rollout in rollouts]
    correct = [rollout for _, rollout in rollouts if rollout["class"] == "success"]
    metrics = {
        "em": mean([float(exact_match(answer, golds)) for answer, golds in answers]),
        "f1": mean([f1_score(answer, golds) for answer, golds in answers]),
        "broken_tag_share": mean([float(not well_formed(turn["text"])) for turn in turns]),
        "repeated_query_share": repeated / max(searches, 1),
        "duplicate_result_share": seen_again / max(passages, 1),
        "false_positive_rate": false_positive_rate(list(map(group_from_record, groups)), config),
        "rollouts": float(len(rollouts)),
        "sampled_tokens": float(
            sum(
                turn["tokens"]
                for group in groups
                for turn in distinct_turns_of(group["trajectories"])
            )
        ),
    }
    if correct:
        metrics["correct_logprob"] = mean([_logprob_per_token(rollout) for rollout in correct])
    return metrics


def _logprob_per_token(rollout: RolloutRecord) -> float:
    return sum(turn["logprob"] or 0.0 for turn in rollout["turns"]) / max(
        1, sum(turn["tokens"] for turn in rollout["turns"])
    )
