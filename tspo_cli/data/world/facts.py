"""Entities and the facts about them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tspo_cli.data.world.names import draw_names
from tspo_cli.data.world.relations import TYPE_SHARES, Relation

FEWEST_OF_A_TYPE = 4


@dataclass(frozen=True, slots=True)
class Fact:
    """One (subject, relation, object)."""

    subject: str
    relation: Relation
    object: str


Entities = dict[str, list[str]]
"""Names by type."""


def draw_entities(
    rng: random.Random, count: int, relations: tuple[Relation, ...], sharing: float, taken: set[str]
) -> Entities:
    """About `count` names, shared out over the types that `relations` speak of. `taken` gains their
    words.
    """
    used = {kind for relation in relations for kind in (relation.subject, relation.object)}
    whole = sum(share for kind, share in TYPE_SHARES.items() if kind in used)
    return {
        kind: draw_names(rng, max(FEWEST_OF_A_TYPE, round(count * share / whole)), sharing, taken)
        for kind, share in TYPE_SHARES.items()
        if kind in used
    }


def draw_facts(
    rng: random.Random, entities: Entities, relations: tuple[Relation, ...]
) -> list[Fact]:
    """One fact for each relation and each entity of its subject's type; nobody is related to
    themselves.
    """
    return [
        Fact(subject, relation, pick_other(rng, entities[relation.object], {subject}))
        for relation in relations
        for subject in entities[relation.subject]
    ]


def pick_other(rng: random.Random, names: list[str], excluded: set[str]) -> str:
    """A name that is not excluded; `names` holds more than are excluded."""
    while (name := rng.choice(names)) in excluded:
        pass
    return name
