"""The part of `tspo credit` that is about a run: what other algorithms would have made of its
rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli import console
from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.text.whole_numbers import whole_number

if TYPE_CHECKING:
    from tspo_cli.config.schema import CreditConfig
    from tspo_cli.credit.algorithms import Algorithm
    from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions
    from tspo_cli.credit.laboratory.comparison import Arm

# What counts as an outcome and as a hit stays that of the run, so that all algorithms judge the
# same.
JUDGING = (
    "outcome",
    "format_score",
    "final_format_score",
    "retrieval_score",
    "no_search_penalty",
    "no_answer_penalty",
    "length_penalty",
    "length_unit",
    "length_free",
    "overlong_limit",
    "overlong_buffer",
    "overlong_penalty",
    "hit_source",
    "match",
    "degenerate",
)


def compare_run(
    run: Path,
    specs: Sequence[str],
    settings: Sequence[str],
    steps: str | None,
    figure: Path | None,
    *,
    trust: bool,
    as_json: bool,
) -> None:
    """Apply the algorithms of `specs` to the recorded rollouts and print. Without any: all that
    need no model, those that need gold log-probabilities where the run recorded them, and the run's
    own Python code if `trust` allows it.

    Raises:
        InvalidInputError: the outcome of the run is Python code, and `trust` does not allow it; an
        algorithm needs other beliefs than the run recorded.
    """
    from tspo_cli.config.load_config import read_resolved
    from tspo_cli.credit.laboratory.comparison import Arm, compare
    from tspo_cli.credit.laboratory.recorded_groups import recorded_batches
    from tspo_cli.credit.user_code import is_user_code
    from tspo_cli.reporting.tables.credit_table import comparison_text, draw_comparison
    from tspo_cli.runs import rollout_files

    first, last = parse_steps(steps)
    credit = read_resolved(run).credit
    if is_user_code(credit.outcome) and not trust:
        raise InvalidInputError(
            f"{run}: its credit.outcome is Python code ({credit.outcome}), which was not run; add "
            "--trust if you know the file"
        )
    arms = _arms(specs, credit, settings)
    if not specs and is_user_code(credit.algorithm):
        if trust:
            arms.append(Arm(credit.algorithm, credit))
        else:
            console.say(
                f"{credit.algorithm}, the rule of {run}, is Python code, so it was not run; add "
                "--trust if you know the file"
            )
    with console.progress(
        f"judging the rollouts of {run.name} again, {counted(len(arms), 'algorithm')}, step",
        len(rollout_files(run)) if steps is None else None,
    ) as advance:

        def batches() -> Any:
            for step, groups in recorded_batches(run, first, last):
                yield step, groups
                advance(1)

        comparison = compare(batches(), arms)
    if figure is not None:
        draw_comparison(comparison, figure)
        console.say(f"figure: {figure}")
    if as_json:
        options = {arm.name: arm.config.model_dump(mode="json") for arm in arms}
        console.result_json({"run": str(run), **comparison.record(), "options": options})
        return
    width = console.width()
    console.result(comparison_text(comparison, width))


def parse_steps(text: str | None) -> tuple[int, int | None]:
    """`20` is step 20, `1-20` a range, `21-` all from 21 on.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return 1, None
    first, dash, last = text.partition("-")
    begin, end = whole_number(first), whole_number(last)
    if begin is None or (last and end is None):
        raise UsageError(f"--steps {text}: expected a step or a range, such as 20, 1-20 or 21-")
    return begin, end if dash else begin


def _belief_options(algorithm: Algorithm | None, credit: CreditConfig) -> GoldLogprobOptions | None:
    """The options that beliefs are measured with; None where none are."""
    from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions

    options = algorithm.options_in(credit) if algorithm else None
    return options if isinstance(options, GoldLogprobOptions) and options.measures else None


def _arms(specs: Sequence[str], run: CreditConfig, settings: Sequence[str]) -> list[Arm]:
    from tspo_cli.config.load_config import load_config
    from tspo_cli.credit.algorithms import ALGORITHMS
    from tspo_cli.credit.find_algorithm import find_algorithm
    from tspo_cli.credit.laboratory.comparison import Arm

    kept = [f"credit.{key}={getattr(run, key)}" for key in JUDGING]
    for algorithm in ALGORITHMS.values():  # so do the recorded beliefs
        if options := _belief_options(algorithm, run):
            table = f"credit.{algorithm.table}"
            kept += [f"{table}.{key}={getattr(options, key)}" for key in options.decide_belief]
    # A rule of the user's own, which is not known here, may have recorded any beliefs.
    recorded = _belief_options(ALGORITHMS.get(run.algorithm), run)
    held = {"gold_logprobs"} if recorded else set()
    wanted = specs or [name for name, algorithm in ALGORITHMS.items() if algorithm.needs <= held]
    arms = []
    for spec in dict.fromkeys(wanted):
        name, *stated = spec.split()
        own = [f"credit.{option}" for option in stated]
        config = load_config([], [*kept, *settings, *own, f"credit.algorithm={name}"]).credit
        needed = _belief_options(find_algorithm(name), config)
        if not (recorded and needed) or recorded.measured == needed.measured:
            arms.append(Arm(spec, config))
        elif specs:
            raise InvalidInputError(
                f"credit.algorithm {name}: the run recorded the beliefs of {run.algorithm}, which "
                f"are in other answers or measured otherwise than those of {name} with its "
                "options; compare algorithms that share them"
            )
    return arms
