"""What a file of demonstrations holds: counts, turns and lengths, and what exceeds the limits."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.data.check import MOST_PROBLEMS
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.sequences import ScriptedTrajectory, demonstration_lengths
from tspo_cli.training.sft.demonstration_file import scan_demonstrations


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of one kind of length in tokens: median, 95 % and the longest, and how many exceed `limit`
    (None: there is no limit).
    """

    median: int
    p95: int
    longest: int
    limit: int | None = None
    above: int = 0

    def __str__(self) -> str:
        text = f"median {self.median:,}, 95 % {self.p95:,}, longest {self.longest:,}"
        return text if self.limit is None else f"{text}; {self.above:,} above {self.limit:,}"


@dataclass(frozen=True, slots=True)
class DemonstrationReport:
    """Demonstrations of a file and its problems. `searches` counts demonstrations by their number
    of searches; `lengths` is empty without a tokenizer.
    """

    demonstrations: int
    turns: int
    invalid_turns: int
    searches: dict[str, int]
    lengths: dict[str, Lengths]
    problems: tuple[str, ...]
    problem_count: int
    """All problems, of which `problems` has the first `MOST_PROBLEMS`."""


def check_demonstrations(
    path: Path, protocol: SearchProtocol | None = None, rollout: RolloutConfig | None = None
) -> DemonstrationReport:
    """Read a whole file, and count its lines that are no demonstration. With a protocol, lengths
    are measured and compared with the limits of `rollout`.

    Raises:
        MissingResourceError: no such file. InvalidInputError: a line that is no JSON object.
    """
    good: list[ScriptedTrajectory] = []
    problems: list[str] = []
    count = 0
    for read in scan_demonstrations(path):
        if isinstance(read, ScriptedTrajectory):
            good.append(read)
            continue
        count += 1
        if count <= MOST_PROBLEMS:
            problems.append(str(read))
    searches = Counter(sum(turn.searches for turn in demonstration.turns) for demonstration in good)
    measured = protocol is not None and rollout is not None and bool(good)
    return DemonstrationReport(
        len(good),
        sum(len(demonstration.turns) for demonstration in good),
        sum(turn.is_invalid for demonstration in good for turn in demonstration.turns),
        {str(number): searches[number] for number in sorted(searches)},
        measure(good, protocol, rollout) if measured and protocol and rollout else {},
        tuple(problems),
        count,
    )


def measure(
    demonstrations: Sequence[ScriptedTrajectory], protocol: SearchProtocol, rollout: RolloutConfig
) -> dict[str, Lengths]:
    """Lengths of whole demonstrations, of turns (limit: max_new_tokens) and of observations (limit:
    max_observation_tokens). There is at least one demonstration.
    """
    turns = [turn for demonstration in demonstrations for turn in demonstration.turns]
    said = [len(protocol.action_ids(turn.text)) for turn in turns]
    shown = [protocol.shown_tokens(turn.passages(protocol)) for turn in turns if turn.searches]
    lengths = {
        "demonstration": _lengths(demonstration_lengths(demonstrations, protocol)),
        "turn": _lengths(said, rollout.max_new_tokens),
    }
    if shown:
        lengths["observation"] = _lengths(shown, rollout.max_observation_tokens)
    return lengths


def lengths_in_words(lengths: dict[str, Lengths]) -> list[str]:
    """One line for each kind, with what happens to those above their limit."""
    fates = {
        "turn": "trained whole, though the agent could not write them (rollout.max_new_tokens)",
        "observation": "cut to the limit, as in rollouts (rollout.max_observation_tokens)",
    }
    lines = []
    for name, found in lengths.items():
        fate = f": {fates[name]}" if found.above else ""
        lines.append(f"tokens of {name}s: {found}{fate}")
    return lines


def _lengths(values: Sequence[int], limit: int | None = None) -> Lengths:
    ordered = sorted(values)
    return Lengths(
        round(statistics.median(ordered)),
        ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        ordered[-1],
        limit,
        sum(value > limit for value in ordered) if limit is not None else 0,
    )
