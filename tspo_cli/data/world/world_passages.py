"""Passages of a world: facts with a distractor of the same type, and baits, which match the words
of a question but have no answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from tspo_cli.data.question import Passage
from tspo_cli.data.world.facts import Entities, Fact, pick_other
from tspo_cli.data.world.relations import BAITS


@dataclass(frozen=True, slots=True)
class Draft:
    """A passage before it has an id."""

    title: str
    text: str
    facts: tuple[Fact, ...] = ()


def write_passages(
    rng: random.Random,
    facts: Sequence[Fact],
    entities: Entities,
    facts_per_passage: int,
    bait_share: float,
) -> list[Draft]:
    """Passages that state every fact once, and baits for a share of the facts.

    All have `facts_per_passage` sentences: retrievers favour short texts, and the length must not
    reveal which passages state facts.
    """
    drafts: list[Draft] = []
    for subject, facts_of_subject in groupby(
        sorted(facts, key=lambda fact: fact.subject), key=lambda fact: fact.subject
    ):
        shuffled = list(facts_of_subject)
        rng.shuffle(shuffled)
        baited = [fact for fact in shuffled if rng.random() < bait_share]
        for start in range(0, len(shuffled), facts_per_passage):
            chunk = tuple(shuffled[start : start + facts_per_passage])
            fillers = [rng.choice(shuffled) for _ in range(facts_per_passage - len(chunk))]
            sentences = [_sentence(rng, fact, entities) for fact in chunk]
            sentences += [_bait(rng, fact, entities) for fact in fillers]
            drafts.append(Draft(subject, " ".join(sentences), chunk))
        for start in range(0, len(baited), facts_per_passage):
            chosen = baited[start : start + facts_per_passage]
            chosen += [rng.choice(shuffled) for _ in range(facts_per_passage - len(chosen))]
            drafts.append(Draft(subject, " ".join(_bait(rng, fact, entities) for fact in chosen)))
    return drafts


def _sentence(rng: random.Random, fact: Fact, entities: Entities) -> str:
    distractor = pick_other(rng, entities[fact.relation.object], {fact.subject, fact.object})
    return rng.choice(fact.relation.sentences).format(o=fact.object, d=distractor)


def _bait(rng: random.Random, fact: Fact, entities: Entities) -> str:
    distractor = pick_other(rng, entities[fact.relation.object], {fact.subject, fact.object})
    return rng.choice(BAITS).format(d=distractor, asked=fact.relation.asked)


def number_passages(
    rng: random.Random, drafts: Sequence[Draft]
) -> tuple[list[Passage], Mapping[Fact, str]]:
    """Passages in random order with ids, and the id of the passage that states each fact."""
    order = rng.sample(drafts, len(drafts))
    width = len(str(len(order)))
    passages = [
        Passage(f"p{number:0{width}}", draft.title, draft.text)
        for number, draft in enumerate(order, start=1)
    ]
    stated = {
        fact: passage.id
        for passage, draft in zip(passages, order, strict=True)
        for fact in draft.facts
    }
    return passages, stated
