"""The options of a synthetic world."""

from __future__ import annotations

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.data.world.relations import RELATIONS


class WorldConfig(Section):
    """Size and difficulty of a world."""

    seed: int = Field(0, ge=0, description="The same seed and options give the same bytes.")
    entities: int = Field(
        960, ge=20, description="Entities of the training questions, over all types."
    )
    test_entities: int = Field(576, ge=20, description="Other entities, for the test questions.")
    relations: int = Field(
        len(RELATIONS), ge=3, le=len(RELATIONS), description="Number of kinds of facts."
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
            "Share of yes/no questions about two entities. Half of all guesses are correct."
        ),
    )
    facts_per_passage: int = Field(
        2, ge=1, description="Number of facts about an entity in a passage."
    )
    bait_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of facts with a distractor passage that has the question's words.",
    )
    sharing: float = Field(
        3.0,
        ge=1,
        le=6,
        description="Average number of entities of a type whose names share a word.",
    )
