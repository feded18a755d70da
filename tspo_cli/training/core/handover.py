"""New weights from the learner to the rollout engine, and the proof that they arrived."""

from __future__ import annotations

from tspo_cli.config.schema import Config
from tspo_cli.errors import TspoError
from tspo_cli.rollout.engines.engine_protocol import Completion, Engine, GenerationRequest, Sampling
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.batching import TrainSequence
from tspo_cli.training.core.distributed import all_sum
from tspo_cli.training.core.learner import Learner

PROBES, PROBE_TOKENS = 2, 8
PROBE_QUESTION = "who was the first?"
# In float32 both sides agree to about 1e-6; half-precision kernels differ by what
# train.parity_limit allows.
FLOAT32_LIMIT = 1e-3


def hand_over(
    learner: Learner, engine: Engine, protocol: SearchProtocol, config: Config, version: int
) -> float | None:
    """Give the engine the learner's weights as `version` and compare a few log-probs of both
    afterwards.

    All processes call it. Returns the mean difference in nats, None where both share their
    parameters.

    Raises:
        TspoError: the difference is above the limit: the engine does not have the learner's
        weights.
    """
    weights = learner.whole_weights() if engine.owns_weights else None
    engine.load_weights(weights, version)
    if weights is None:
        return None
    del weights
    gap = _probe(learner, engine, protocol, config)
    limit = (
        config.train.parity_limit if learner.half else min(config.train.parity_limit, FLOAT32_LIMIT)
    )
    if not gap <= limit:
        raise TspoError(
            f"hand-over of step {version}: log-probs of engine and learner differ by {gap:.4g} "
            "nats on average, more "
            f"than {limit:g}; the engine does not have the learner's weights"
        )
    return gap


def _probe(learner: Learner, engine: Engine, protocol: SearchProtocol, config: Config) -> float:
    """Mean difference (nats) over a few tokens that the engine samples now, over all processes."""
    prompt = tuple(protocol.prompt_ids(PROBE_QUESTION))
    sampling = Sampling(temperature=config.rollout.temperature, max_new_tokens=PROBE_TOKENS)
    sessions = [-1 - place for place in range(PROBES)]  # no session of a rollout
    for session in sessions:
        engine.submit(GenerationRequest(session, prompt, sampling, seed=-session))
    done: list[Completion] = []
    while len(done) < PROBES:
        done += engine.step()
    for session in sessions:
        engine.release(session)
    sequences = [
        TrainSequence(
            [*prompt, *one.token_ids],
            [0.0] * len(prompt) + [1.0] * len(one.token_ids),
            [0.0] * (len(prompt) + len(one.token_ids)),
            [0.0] * len(prompt) + list(one.logprobs),
        )
        for one in done
    ]
    gaps = [
        abs(new - old)
        for sequence, logprobs in zip(sequences, learner.logprobs(sequences), strict=True)
        for new, old, weight in zip(logprobs, sequence.old_logprobs, sequence.weights, strict=True)
        if weight
    ]
    total, count = all_sum([sum(gaps), len(gaps)])
    return total / count
