"""What goes wrong before the score does: read from the records of a step's rollouts."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.diagnostics import false_positive_rate
from tspo_cli.credit.from_rollouts import group_from_record
from tspo_cli.credit.gold_match import exact_match, f1_score
from tspo_cli.credit.outcome import well_formed
from tspo_cli.data.normal_form import normalize_text
from tspo_cli.rollout.records import GroupRecord, RolloutRecord


def warning_metrics(groups: Sequence[GroupRecord], config: CreditConfig) -> dict[str, float]:
    """Metrics of the recorded groups (see `rollouts/` of a run).

    em, f1: of the rollouts' answers, whatever reward is trained. broken_tag_share: turns without
    exactly one action and balanced think tags. repeated_query_share: searches whose words were
    searched before in the same rollout. duplicate_result_share: passages that the rollout had seen
    already. correct_logprob: log-probability per sampled token (nats) of the correct rollouts;
    absent without one. false_positive_rate: rollouts in which the gold answer of another question
    "occurs". rollouts and sampled_tokens: counts of the step.
    """
    rollouts = [(group, one) for group in groups for one in group["trajectories"]]
    turns = [turn for _, one in rollouts for turn in one["turns"]]
    repeated, searches, seen_again, passages = 0, 0, 0, 0
    for _, one in rollouts:
        queries, documents = set[str](), set[str]()
        for turn in one["turns"]:
            if turn["kind"] == "search":
                searches += 1
                words = normalize_text(turn["query"] or "")
                repeated += words in queries
                queries.add(words)
            for passage in turn["passages"]:
                passages += 1
                seen_again += passage["id"] in documents
                documents.add(passage["id"])
    correct = [one for _, one in rollouts if one["class"] == "success"]
    metrics = {
        "em": _mean(
            [float(exact_match(one["answer"], group["golden_answers"])) for group, one in rollouts]
        ),
        "f1": _mean([f1_score(one["answer"], group["golden_answers"]) for group, one in rollouts]),
        "broken_tag_share": _mean([float(not well_formed(turn["text"])) for turn in turns]),
        "repeated_query_share": repeated / max(searches, 1),
        "duplicate_result_share": seen_again / max(passages, 1),
        "false_positive_rate": false_positive_rate(list(map(group_from_record, groups)), config),
        "rollouts": float(len(rollouts)),
        "sampled_tokens": float(sum(turn["tokens"] for turn in turns)),
    }
    if correct:
        metrics["correct_logprob"] = _mean([_logprob_per_token(one) for one in correct])
    return metrics


def _logprob_per_token(rollout: RolloutRecord) -> float:
    return sum(turn["logprob"] or 0.0 for turn in rollout["turns"]) / max(
        1, sum(turn["tokens"] for turn in rollout["turns"])
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
