"""What a synthetic world is made of."""

from __future__ import annotations

from pydantic import Field

from tspo_cli.config.section import Section
from tspo_cli.data.world.relations import RELATIONS


class WorldConfig(Section):
    """Size and difficulty of a world. The defaults are the world of the demo."""

    seed: int = Field(0, ge=0, description="Same seed and options, same bytes.")
    entities: int = Field(
        960, ge=20, description="Entities that training questions are about, all types together."
    )
    test_entities: int = Field(
        576, ge=20, description="Entities that test questions are about; none is shared."
    )
    relations: int = Field(
        len(RELATIONS), ge=3, le=len(RELATIONS), description="Kinds of facts in use."
    )
    train_questions: int = Field(6000, ge=1)
    test_questions: int = Field(600, ge=1)
    two_hop_share: float = Field(
        0.5, ge=0, le=1, description="Share of bridge questions (the mentor of the ruler of X)."
    )
    comparison_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description=(
            "Share of yes/no questions about two entities. A guess is right half of the time."
        ),
    )
    facts_per_passage: int = Field(
        2, ge=1, description="Facts about one entity that share a passage."
    )
    bait_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Facts that also have a passage with the question's word and no answer.",
    )
    sharing: float = Field(
        3.0,
        ge=1,
        le=6,
        description="Entities of a type that share a word of their name, on average.",
    )
