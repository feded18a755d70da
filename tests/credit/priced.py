"""GRPO on outcomes less a price for every search: an algorithm of one's own, with an option."""

from pydantic import Field

from tspo_cli.credit.algorithms import Section, algorithm


class Options(Section):
    price: float = Field(0.05, ge=0, description="Subtracted from the outcome for each search.")


@algorithm(options=Options, defaults={"loss.clip_high": 0.28})
def priced(trajectories, config, options):
    scores = [rollout.outcome - options.price * (rollout.turns - 1) for rollout in trajectories]
    mean = sum(scores) / len(scores)
    return [[scores[i] - mean] * rollout.turns for i, rollout in enumerate(trajectories)]
