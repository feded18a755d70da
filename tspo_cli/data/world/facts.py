"""Entities and the facts about them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tspo_cli.data.world.names import draw_names
from tspo_cli.data.world.relations import TYPE_SHARES, Relation

MIN_ENTITIES_OF_TYPE = 4


@dataclass(frozen=True, slots=True)
class Fact:
    """A triple (subject, relation, object)."""

    subject: str
    relation: Relation
    object: str


Entities = dict[str, list[str]]
"""Names by type."""


def draw_entities(
    rng: random.Random, count: int, relations: tuple[Relation, ...], sharing: float, taken: set[str]
) -> Entities:
    """About `count` names, distributed over the types of `relations`. Their words are added to
    `taken`.
    """
    used = {kind for relation in relations for kind in (relation.subject, relation.object)}
    total = sum(share for kind, share in TYPE_SHARES.items() if kind in used)
    return {
        kind: draw_names(
            rng, max(MIN_ENTITIES_OF_TYPE, round(count * share / total)), sharing, taken
        )
        for kind, share in TYPE_SHARES.items()
        if kind in used
    }


def draw_facts(
    rng: random.Random, entities: Entities, relations: tuple[Relation, ...]
) -> list[Fact]:
    """One fact for each relation and entity of its subject's type. Subject and object differ."""
    return [
        Fact(subject, relation, pick_other(rng, entities[relation.object], {subject}))
        for relation in relations
        for subject in entities[relation.subject]
    ]


def pick_other(rng: random.Random, names: list[str], excluded: set[str]) -> str:
    """A random name that is not excluded. At least one such name must exist."""
    while (name := rng.choice(names)) in excluded:
        pass
    return name
