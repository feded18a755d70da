"""New weights from the learner to the rollout engine, and the proof that they arrived."""

from __future__ import annotations

from tspo_cli.config.schema import Config
from tspo_cli.errors import TspoError
from tspo_cli.rollout.engines.engine_protocol import (
    Completion,
    Engine,
    GenerationRequest,
    Sampling,
    TakesOneByOne,
)
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.engine_weights import weights_for_engine, weights_one_by_one
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import continuation_sequence

PROBES, PROBE_TOKENS = 2, 8
PROBE_QUESTION = "who was the first?"
# In float32 both sides agree to about 1e-6. In bfloat16 they differ by 0.02 to 0.06 nats, and these
# few tokens only show another model.
FLOAT32_LIMIT = 1e-3
LIMIT, BFLOAT16_LIMIT = 0.05, 0.5


def parity_limit(config: Config, *, bfloat16: bool) -> float:
    """The largest mean difference (nats) of engine and learner that rounding could explain."""
    return config.train.parity_limit or (BFLOAT16_LIMIT if bfloat16 else LIMIT)


def probe_limit(config: Config, *, bfloat16: bool) -> float:
    """The same for the few tokens of a hand-over. In float32 it is closer, unless
    train.parity_limit says that both sides differ by more than it allows (on a GPU, kernels of vLLM
    may compute float32 products in TF32).
    """
    limit = parity_limit(config, bfloat16=bfloat16)
    return limit if bfloat16 or limit > LIMIT else min(limit, FLOAT32_LIMIT)


def hand_over(
    learner: PolicyLearner, engine: Engine, protocol: SearchProtocol, config: Config, version: int
) -> float | None:
    """Give the engine the learner's weights as `version` and compare a few log-probs of both
    afterwards.

    All processes call it. Returns the mean difference in nats, None where both share their
    parameters.

    Raises:
        TspoError: a parameter has other bits, or the difference is above the limit: the engine does
        not have the learner's weights.
    """
    if isinstance(engine, TakesOneByOne) and engine.takes_one_by_one:
        engine.load_one_by_one(lambda: weights_one_by_one(learner.core), version)
    else:
        weights = weights_for_engine(learner.core) if engine.owns_weights else None
        engine.load_weights(weights, version)
        if weights is None:
            return None
        different = engine.different_weight(weights)
        if different is not None:
            raise TspoError(
                f"hand-over of step {version}: the engine's {different} is not the learner's; the "
                "engine has weights of another step or model"
            )
        del weights
    gap = _probe(learner, engine, protocol, config)
    limit = probe_limit(config, bfloat16=learner.core.is_bfloat16)
    if not gap <= limit:
        raise TspoError(
            f"hand-over of step {version}: log-probs of engine and learner differ by {gap:.4g} "
            f"nats on average, more than {limit:g}; the engine does not have the learner's "
            "weights; if both are meant to differ, use --resume --set train.parity_limit=... (in "
            f"float32 above {LIMIT:g})"
        )
    return gap


def _probe(
    learner: PolicyLearner, engine: Engine, protocol: SearchProtocol, config: Config
) -> float:
    """Mean difference (nats) over a few tokens that the engine samples now, over all processes."""
    prompt = tuple(protocol.prompt_ids(PROBE_QUESTION))
    sampling = Sampling(temperature=config.rollout.temperature, max_new_tokens=PROBE_TOKENS)
    sessions = [-1 - number for number in range(PROBES)]  # no session of a rollout
    for session in sessions:
        engine.submit(GenerationRequest(session, prompt, sampling, seed=-session))
    completions: list[Completion] = []
    while len(completions) < PROBES:
        completions += engine.step()
    for session in sessions:
        engine.release(session)
    return learner.logprob_gap(
        [
            continuation_sequence(prompt, completion.token_ids, completion.logprobs)
            for completion in completions
        ]
    )
