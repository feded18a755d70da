"""Questions about facts: one hop, two hops (bridge), and yes/no comparisons."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tspo_cli.data.world.facts import Fact
from tspo_cli.data.world.relations import BRIDGE, COMPARISON, NO, ONE_HOP, YES, question_word
from tspo_cli.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Draft:
    """A question before it has an id. `facts` are in the order of the look-ups."""

    type: str
    text: str
    answer: str
    facts: tuple[Fact, ...]


def write_questions(
    rng: random.Random,
    facts: Sequence[Fact],
    count: int,
    two_hop_share: float,
    comparison_share: float,
    split: str,
) -> list[Draft]:
    """`count` distinct questions in random order.

    Raises:
        InvalidInputError: the facts do not allow that many questions of a type, or the sum of the
            shares exceeds 1.
    """
    if two_hop_share + comparison_share > 1:
        raise InvalidInputError(
            "two_hop_share + comparison_share: expected at most 1 together; lower one of them"
        )
    bridges, comparisons = round(count * two_hop_share), round(count * comparison_share)
    counts = {
        "one_hop": count - bridges - comparisons,
        "bridge": bridges,
        "comparison": comparisons,
    }
    pools = {
        "one_hop": _one_hop(facts),
        "bridge": _bridges(facts),
        "comparison": _comparisons(rng, facts, comparisons),
    }
    for kind, number in counts.items():
        if len(pools[kind]) < number:
            raise InvalidInputError(
                f"{split}_questions: {number} of type {kind} {'is' if number == 1 else 'are'} "
                f"requested, but this world allows {len(pools[kind])}; request fewer, "
                "or more entities"
            )
    drafts = [draft for kind, number in counts.items() for draft in rng.sample(pools[kind], number)]
    rng.shuffle(drafts)
    return drafts


def _one_hop(facts: Sequence[Fact]) -> list[Draft]:
    return [
        Draft(
            "one_hop",
            template.format(wh=question_word(f.relation), asked=f.relation.asked, s=f.subject),
            f.object,
            (f,),
        )
        for f in facts
        for template in ONE_HOP
    ]


def _bridges(facts: Sequence[Fact]) -> list[Draft]:
    of_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        of_subject[fact.subject].append(fact)
    return [
        Draft(
            "bridge",
            template.format(
                wh=question_word(second.relation),
                asked=second.relation.asked,
                via=first.relation.asked,
                s=first.subject,
            ),
            second.object,
            (first, second),
        )
        for first in facts
        for second in of_subject[first.object]
        # If the second fact leads back to the subject, the question contains the answer.
        if second.object != first.subject
        for template in BRIDGE
    ]


def _comparisons(rng: random.Random, facts: Sequence[Fact], count: int) -> list[Draft]:
    """Up to `count` questions. Half of them have the answer yes."""
    alike: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    of_relation: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        of_relation[fact.relation.name].append(fact)
        alike[fact.relation.name, fact.object].append(fact)
    same = [pair for group in alike.values() for pair in pairwise(group)]
    rng.shuffle(same)
    drafts: list[Draft] = []
    for first, second in same[: (count + 1) // 2]:
        drafts.append(_comparison(rng, first, second))
        different = [
            fact for fact in of_relation[first.relation.name] if fact.object != first.object
        ]
        if different:
            drafts.append(_comparison(rng, first, rng.choice(different)))
    return drafts


def _comparison(rng: random.Random, first: Fact, second: Fact) -> Draft:
    text = rng.choice(COMPARISON).format(
        asked=first.relation.asked, s=first.subject, t=second.subject
    )
    return Draft("comparison", text, YES if first.object == second.object else NO, (first, second))
