"""What an algorithm is, and the helpers that several algorithms share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory

Rule = Callable[..., AlgorithmResult]
"""(trajectories, config), or (trajectories, config, options) of an algorithm with options."""
Needs = Literal["", "gold_logprobs", "critic"]
"""What only a model can give. The empty string stands for nothing."""
Belief = Literal["mean", "sum", "shares", "alias_sum"]
Target = tuple[str, float]
"""An answer and its weight."""
Kind = Literal["rl", "rejection_sampling"]


class GoldLogprobOptions(Section):
    """Options of an algorithm with `needs="gold_logprobs"`: how the training loop measures them.

    `targets` are answers with weights, and `belief` is what is measured of them: the weighted sum
    of the mean log-probabilities of their tokens ("mean"), of their log-probabilities ("sum"), or
    of the logarithms of their shares among each other ("shares"); or the log of their summed
    probabilities ("alias_sum"). `decide_belief` names the options on which recorded beliefs depend.
    """

    decide_belief: ClassVar[tuple[str, ...]] = ()

    belief_prefix: str = Field(
        "<think> Now there's enough information to answer. </think> <answer>",
        description=(
            "Text between a turn's feedback and the gold answer when the gold answer's "
            "log-probability is measured."
        ),
    )
    teacher: Literal["policy", "reference"] = Field(
        "policy",
        description=(
            "Model that the gold answer's log-probability is measured with: the policy, or the "
            "frozen starting policy (kept where loss.kl or loss.log_kl is set)."
        ),
    )

    @property
    def belief(self) -> Belief:
        """What is measured of the targets."""
        return "mean"

    def targets(
        self, golds: Sequence[str], trajectories: Sequence[JudgedTrajectory]
    ) -> list[Target]:
        """The answers that are measured for a group: the first gold answer."""
        return [(golds[0], 1.0)]

    @property
    def measured(self) -> tuple[object, ...]:
        """What is measured: recorded beliefs serve options that are equal in it, and no others."""
        return type(self).targets, self.belief

    @property
    def measures(self) -> bool:
        """False where these options make no use of what would be measured."""
        return True


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A credit algorithm with everything that belongs to it. `algorithm` makes one of a function.

    rule      from the trajectories of one group to rewards and advantages per turn
    options   the keys of its table in the experiment file, None if it has none
    defaults  values for other keys, such as {"loss.clip_high": 0.28}, where the experiment gives
              none
    needs     what only a model can give: "gold_logprobs", which the rule finds in the trajectories,
              and "critic", whose values turn the turn rewards into advantages in the training loop
    whiten    standardise the advantages over all sampled tokens of the batch afterwards
    compares  it compares the rollouts of a question, so that one rollout alone teaches nothing
    kind      the kind of training (key `kind`) that it belongs to
    table     name of its table in [credit]
    """

    name: str
    rule: Rule
    options: type[Section] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs: frozenset[Needs] = frozenset()
    whiten: bool = False
    compares: bool = True
    kind: Kind = "rl"
    table: str = ""

    @property
    def batchwise(self) -> bool:
        """True if advantages depend on the whole batch, not on the group alone."""
        return self.whiten or "critic" in self.needs

    def __call__(
        self, trajectories: Sequence[JudgedTrajectory], config: CreditConfig
    ) -> AlgorithmResult:
        """Apply the rule to the trajectories of one group."""
        if self.options is None:
            return self.rule(trajectories, config)
        return self.rule(trajectories, config, self.options_in(config))

    def options_in(self, config: CreditConfig) -> Section | None:
        """The values of its options in `config`, None if it has no options."""
        if self.options is None:
            return None
        table = getattr(config, self.table)
        return table if isinstance(table, Section) else self.options.model_validate(table)


def algorithm(
    *,
    options: type[Section] | None = None,
    defaults: Mapping[str, Any] | None = None,
    needs: Needs | Collection[Needs] = "",
    whiten: bool = False,
    compares: bool = True,
    kind: Kind = "rl",
) -> Callable[[Rule], Algorithm]:
    """Make an `Algorithm` of the function below, under the function's name; see `Algorithm`.

    It serves the files of this folder, and your own FILE.py:function just as well:

        class Options(Section):
            price: float = Field(0.05, ge=0, description="Taken off the outcome per search.")

        @algorithm(options=Options, defaults={"loss.clip_high": 0.28})
        def priced(trajectories, config, options): ...
    """

    def declare(rule: Rule) -> Algorithm:
        name = rule.__name__
        wanted: Collection[Needs] = (needs,) if isinstance(needs, str) else needs
        return Algorithm(
            name,
            rule,
            options,
            defaults or {},
            frozenset(need for need in wanted if need),
            whiten,
            compares,
            kind,
            table=name,
        )

    return declare


def outcomes_last(trajectories: Sequence[JudgedTrajectory]) -> tuple[tuple[float, ...], ...]:
    """Turn rewards of an algorithm that rewards outcomes alone: the last turn earns the outcome."""
    return tuple(
        (0.0,) * (trajectory.turns - 1) + (trajectory.outcome,) for trajectory in trajectories
    )


def repeat_over_turns(
    values: Sequence[float], trajectories: Sequence[JudgedTrajectory]
) -> tuple[tuple[float, ...], ...]:
    """One value per trajectory, repeated at each of its turns."""
    return tuple(
        (value,) * trajectory.turns for value, trajectory in zip(values, trajectories, strict=True)
    )
