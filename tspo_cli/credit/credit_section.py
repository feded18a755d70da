"""The keys of [credit] that algorithms share. The options of one algorithm stand in its own file.

U1 to U13 number the choices that the abstract of the TSPO paper (arXiv 2601.22776) leaves open.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section, UserFunction
from tspo_cli.credit.gold_match import Match


class CreditConfig(Section):
    """From outcomes and feedback to advantages.

    `tspo_cli/config/sections/credit_sections.py` adds a table for every algorithm that has options:
    [credit.NAME].
    """

    algorithm: str = Field("tspo", description="Name of the algorithm, or FILE.py:function.")
    outcome: Literal["em", "f1", "f1_plus", "em_format", "judge"] | UserFunction = Field(
        "em",
        description=(
            "U11: reward of the final answer. f1_plus: F1 less penalties, as in Search-R1++; "
            "em_format: values of Search-R1 v0.3; judge: the verdict of [judge]."
        ),
    )
    format_score: float = Field(
        0.2,
        ge=0,
        le=1,
        description=(
            "em_format: reward of a wrong answer in valid form; a correct answer in bad form "
            "earns 1 - format_score."
        ),
    )
    final_format_score: float = Field(
        0.1, ge=0, le=1, description="em_format: reward of a wrong answer in bad form."
    )
    retrieval_score: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "em_format: added to a wrong answer in valid form if a search found a gold answer."
        ),
    )
    no_search_penalty: float = Field(
        0.1, ge=0, description="f1_plus: subtracted from F1 if the rollout never searched."
    )
    no_answer_penalty: float = Field(
        0.1, ge=0, description="f1_plus: subtracted from F1 if there is no answer."
    )
    length_penalty: float = Field(
        0.0,
        ge=0,
        description=(
            "Subtracted from an outcome above 0 for every length_unit beyond length_free; the "
            "outcome stays at 0 or more."
        ),
    )
    length_unit: Literal["searches", "tokens"] = Field(
        "searches", description="What length_penalty counts: searches, or sampled tokens."
    )
    length_free: int = Field(0, ge=0, description="Searches or tokens without a length_penalty.")
    overlong_limit: int = Field(
        0,
        ge=0,
        description=(
            "Sampled tokens of a rollout at which the overlong penalty is full. 0: no penalty."
        ),
    )
    overlong_buffer: int = Field(
        0, ge=0, description="The penalty grows linearly over this many tokens before the limit."
    )
    overlong_penalty: float = Field(
        1.0, ge=0, description="Full overlong penalty, subtracted from the outcome."
    )
    hit_source: Literal["retrieved", "generated", "either"] = Field(
        "retrieved", description="U1: text that is searched for a gold answer."
    )
    match: Match = Field(
        "either_word_form",
        description=(
            "U2: how a gold answer is found in a text. either_word_form: whole words, punctuation "
            "as a space or as nothing; norm_token_boundary: whole words of SQuAD's normal form; "
            "norm_substring: also inside words; raw_lower: any substring in lower case."
        ),
    )
    degenerate: Literal["no_hit", "as_is", "half"] = Field(
        "no_hit",
        description=(
            "U3: yes/no and one-character gold answers: no hit, a normal hit, or half a hit."
        ),
    )
    turn_reward: Literal["prefix", "point", "point_to_go"] = Field(
        "prefix", description="U4: shape of the partial reward."
    )
    gamma: float = Field(
        1.0,
        ge=0,
        le=1,
        description=(
            "U4: discount per turn of point_to_go, and of algorithms that sum rewards over turns."
        ),
    )
    alpha: float = Field(0.5, ge=0, description="U5: size of the partial reward of a near-miss.")
    success_turns: Literal["all_ones", "final_only", "hit_plus_final"] = Field(
        "all_ones", description="U6: turn rewards of a correct trajectory."
    )
    gate: Literal["all_wrong", "any_near_miss", "always", "never"] = Field(
        "all_wrong", description="U7: groups that use turn-level advantages."
    )
    norm: Literal["pooled_turns", "per_turn_index", "trajectory"] = Field(
        "pooled_turns", description="U8: population of mean and standard deviation."
    )
    scale: Literal["std", "none"] = Field(
        "std", description="U9: divide by the standard deviation, or only subtract the mean."
    )
    std: Literal["unbiased", "biased"] = Field(
        "unbiased", description="U9: divide the squares by n - 1, or by n."
    )
    eps: float = Field(1e-6, ge=0, description="U9: added to the standard deviation.")
    turn_count_baseline: bool = Field(
        False,
        description=(
            "Remove what the number of turns alone adds: rollouts of a question with the same "
            "outcome get the same mean advantage at every number of turns."
        ),
    )
    mixed_reward: Literal["outcome", "outcome_plus_alpha"] = Field(
        "outcome", description="U10: reward of trajectories that are compared as a whole."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of your own FILE.py:function, as it declares them: [credit.options].",
    )
