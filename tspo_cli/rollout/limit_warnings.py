"""Limits of tokens that an agent will suffer from, in one sentence each: what is, what to do."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tspo_cli.config.schema import Config
from tspo_cli.console import agreeing, counted
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.remote.patience import LAST_ATTEMPT
from tspo_cli.retrieval.types import Hit, Retriever, unseen_depth
from tspo_cli.rollout.protocol import SearchProtocol

T = TypeVar("T")
_SAMPLE = 200
_ASKED = 8
"""Questions that a retriever on a network is asked, in one request."""


def observation_warnings(
    config: Config, retriever: Retriever | None, questions: Sequence[str], protocol: SearchProtocol
) -> Iterator[str]:
    """Passages that are longer than rollout.max_observation_tokens: of an index here a sample, of
    other retrievers what a few of the `questions` find, and how many find nothing.
    """
    if retriever is None or not config.rollout.max_searches:
        return
    if isinstance(retriever, Searcher):
        hits = [Hit("", contents, 0.0) for contents in retriever.sample(_SAMPLE)]
    else:
        hits, problem = _remote_passages(config, questions, retriever)
        if problem:
            yield problem
        if not hits:
            return
    tags = protocol.observation_tokens([])
    lengths = [protocol.observation_tokens([hit]) - tags for hit in hits]
    median, k = round(statistics.median(lengths)), config.retriever.k
    limit, needed = config.rollout.max_observation_tokens, k * median + tags
    passages = "passage" if k == 1 else f"{k} passages"
    in_tags = "in its tags it has" if k == 1 else f"{k} in their tags have"
    if limit < needed:
        yield (
            f"rollout.max_observation_tokens: {agreeing(limit, 'token does', 'tokens do')} not "
            f"hold the {passages} of a search (a passage of the index has {median} in the median, "
            f"{in_tags} {needed}), and the agent never reads what is cut off; set "
            f"{rounded(1.25 * needed)} or more, or lower retriever.k"
        )


def depth_warnings(
    config: Config, retriever: Retriever | None, questions: Sequence[str], *, searches: int
) -> Iterator[str]:
    """A retriever on a network that does not give as many passages as rollout.exclude_seen asks
    for: a few of the `questions` are asked. `searches`: those of a rollout.
    """
    if not (config.rollout.exclude_seen and searches and questions):
        return
    if retriever is None or not retriever.blocking:
        return
    depth = unseen_depth(config.retriever.k, searches)
    results = retriever.search(spread(questions, _ASKED), depth)
    asks = (
        f"rollout.exclude_seen: a search asks for {depth} passages (retriever.k for each search of "
        "a rollout, and once more)"
    )
    advice = "raise its limit, or lower retriever.k or rollout.max_searches"
    errors = [result.error for result in results if result.error is not None]
    most = max(len(result.hits) for result in results)
    if len(errors) == len(results):
        yield f"{asks}, which the retriever does not give ({errors[0]}); {advice}"
    elif 0 < most < depth:
        yield (
            f"{asks}; the retriever gives {most} at most, so that later searches of a rollout may "
            f"find nothing new; {advice}"
        )


def waiting_warnings(config: Config) -> Iterator[str]:
    """A deadline of rollouts that ends a search before retriever.deadline ends the command: an
    outage between the two is failed searches.
    """
    retriever, rollout = config.retriever, config.rollout
    if not (retriever.url or retriever.qdrant.url):
        return
    limits = {"turn_deadline": rollout.turn_deadline}
    if rollout.trajectory_deadline:
        limits["trajectory_deadline"] = rollout.trajectory_deadline
    name = min(limits, key=limits.__getitem__)
    if limits[name] < retriever.deadline + LAST_ATTEMPT:
        yield (
            f"rollout.{name}: after {limits[name]:g} s a search has failed, so that an outage of "
            f"the retriever never lasts the {retriever.deadline:g} s (retriever.deadline) after "
            f"which the command ends; set rollout.{name} above "
            f"{retriever.deadline + LAST_ATTEMPT:g}, or lower retriever.deadline"
        )


def _remote_passages(
    config: Config, questions: Sequence[str], retriever: Retriever
) -> tuple[list[Hit], str]:
    """What one request with a few questions finds, and why some of them have nothing."""
    asked = spread(questions, _ASKED)
    results = retriever.search(asked, config.retriever.k) if asked else []
    failed = [result for result in results if not result.hits]
    problem = ""
    if failed:
        reason = next((result.error for result in failed if result.error), "no error, no hits")
        problem = (
            f"retriever: no passages for {len(failed)} of {counted(len(asked), 'question')} "
            f"({reason}); check the server with queries of your own first"
        )
    return [hit for result in results for hit in result.hits], problem


def spread(items: Sequence[T], most: int = _SAMPLE) -> list[T]:
    """At most `most` of the items, evenly over the whole."""
    step = max(1, len(items) // most)
    return list(items[::step][:most])


def rounded(tokens: float) -> int:
    """Up to a multiple of 50, as people write limits."""
    return int(-(-tokens // 50) * 50)
