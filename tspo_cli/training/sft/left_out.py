"""Why questions and trajectories give no demonstration, in words that follow their number."""

from __future__ import annotations

from collections.abc import Mapping

_REASONS = {
    # Questions, `make-demos`.
    "no_supporting_ids": "without supporting_ids (--distant looks for the answers instead)",
    "no_passage_with_answer": "for whose words no passage with an answer comes first",
    "gold_not_in_index": "with gold passages that the index lacks (index the corpus they are of)",
    "gold_not_retrieved": "with gold passages that no search finds",
    "too_many_searches": "for which --max-searches is too low",
    "answer_not_in_passages": "with answers that the passages read do not hold",
    "tags_in_text": "with tags of the protocol in a text",
    "too_long": "longer than --max-words",
    # Trajectories, `demos-from`.
    "other_class": "of another class (--class names those to take)",
    "failed": "with a search that had no answer",
    "no_answer": "without an answer at the end",
    "invalid_turn": "with an invalid or cut turn (--keep-invalid takes invalid ones)",
    "other_protocol": "whose turns are not in the tags of search_r1 (evaluate with --method "
    "search_r1)",
    "repeated": "like an earlier one",
    "more_of_its_question": "beyond the shortest of the same question (--per-question 0 takes all)",
}


def left_out(counts: Mapping[str, int]) -> str:
    """`3 without an answer at the end, 1 like an earlier one`."""
    return ", ".join(f"{count:,} {_REASONS[name]}" for name, count in counts.items())
