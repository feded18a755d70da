"""The reward of the final answer (U11), which training uses. Reported scores are measured in
`evaluation/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.gold_match import exact_match, f1_score
from tspo_cli.credit.group import CreditTrajectory
from tspo_cli.credit.user_code import call_function, finite_number, load_function
from tspo_cli.errors import InvalidInputError


def outcome_reward(
    trajectory: CreditTrajectory, golds: Sequence[str], config: CreditConfig, *, found: bool = False
) -> float:
    """The outcome that `config.outcome` asks for, less the penalties for length; `found`: a gold
    answer was retrieved.

    em: 0 or 1. f1: 0 to 1. f1_plus: see `f1_plus`. em_format: see `format_reward`. judge: 0 or 1.
    FILE.py:function: what the user's function returns for (answer or None, golden answers,
    trajectory), which must be a finite number.

    Raises:
        InvalidInputError, MissingResourceError: a user's function that cannot be used, or a
            trajectory that no judge has seen.
    """
    if config.outcome == "em":
        reward = float(exact_match(trajectory.answer, golds))
    elif config.outcome == "f1":
        reward = f1_score(trajectory.answer, golds)
    elif config.outcome == "f1_plus":
        reward = f1_plus(trajectory, golds, config)
    elif config.outcome == "em_format":
        reward = format_reward(trajectory, golds, config, found=found)
    elif config.outcome == "judge":
        reward = _verdict(trajectory)
    else:
        reward = _user_reward(trajectory, golds, config.outcome)
    reward = shortened(reward, trajectory, config)
    return reward - overlong_penalty(trajectory, config)


def f1_plus(trajectory: CreditTrajectory, golds: Sequence[str], config: CreditConfig) -> float:
    """F1 less a penalty without any search, and one without an answer (Search-R1++, arXiv
    2602.19526: 0.1 each).
    """
    searched = any(turn.query is not None for turn in trajectory.turns)
    return (
        f1_score(trajectory.answer, golds)
        - config.no_search_penalty * (not searched)
        - config.no_answer_penalty * (trajectory.answer is None)
    )


def shortened(reward: float, trajectory: CreditTrajectory, config: CreditConfig) -> float:
    """A reward above 0 less the length penalty, at least 0. A reward of 0 or less stays: failing
    shortly is no better than failing.
    """
    if not config.length_penalty or reward <= 0:
        return reward
    length = sum(
        turn.tokens if config.length_unit == "tokens" else turn.query is not None
        for turn in trajectory.turns
    )
    return max(0.0, reward - config.length_penalty * max(0, length - config.length_free))


def format_reward(
    trajectory: CreditTrajectory, golds: Sequence[str], config: CreditConfig, *, found: bool = False
) -> float:
    """Exact match and form, with the values of Search-R1 v0.3 (`qa_em_format.py`; arXiv 2505.15117,
    section 3).

    Correct: 1, or 1 - format_score in bad form. Wrong in valid form: format_score, and
    retrieval_score where a gold answer was found. Wrong in bad form: final_format_score. No answer:
    as a wrong one in valid form, else 0. A form is valid when every turn is `well_formed`.
    """
    valid = all(well_formed(turn.generated) for turn in trajectory.turns)
    if exact_match(trajectory.answer, golds):
        return 1.0 if valid else 1.0 - config.format_score
    if valid:
        return config.format_score + (config.retrieval_score if found else 0.0)
    return config.final_format_score if trajectory.answer is not None else 0.0


def overlong_penalty(trajectory: CreditTrajectory, config: CreditConfig) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13) on the sampled tokens of a rollout: 0 up to
    limit - buffer, then in proportion up to the whole penalty at the limit and beyond.
    """
    if not config.overlong_limit:
        return 0.0
    excess = sum(turn.tokens for turn in trajectory.turns) - (
        config.overlong_limit - config.overlong_buffer
    )
    if excess <= 0:
        return 0.0
    return config.overlong_penalty * min(
        1.0, excess / config.overlong_buffer if config.overlong_buffer else 1.0
    )


def well_formed(generated: str) -> bool:
    """Exactly one search or answer block and balanced think tags. Text that was not recorded counts
    as well formed.
    """
    if not generated:
        return True
    for kind, other in (("search", "answer"), ("answer", "search")):
        if (
            generated.count(f"<{kind}>") == generated.count(f"</{kind}>") == 1
            and generated.find(f"<{kind}>") < generated.find(f"</{kind}>")
            and f"<{other}>" not in generated
            and f"</{other}>" not in generated
        ):
            return generated.count("<think>") == generated.count("</think>")
    return False


def _verdict(trajectory: CreditTrajectory) -> float:
    if trajectory.verdict is None and trajectory.answer is not None:
        raise InvalidInputError(
            "credit.outcome judge needs a verdict on each answer: training asks for them, and a "
            'file may give them as "judge": 1 or 0'
        )
    return trajectory.verdict or 0.0


def _user_reward(trajectory: CreditTrajectory, golds: Sequence[str], spec: str) -> float:
    function = load_function(spec, "credit.outcome")

    def complete() -> tuple[float | None, str]:
        value = function(trajectory.answer, tuple(golds), trajectory)
        reward = finite_number(value)  # a number may be the user's, too
        return reward, "" if reward is not None else " ".join(repr(value).split())

    reward, returned = call_function(complete, spec, "credit.outcome")
    if reward is None:
        raise InvalidInputError(
            f"credit.outcome: {spec} returned {returned}; expected a finite number"
        )
    return float(reward)
