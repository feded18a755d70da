"""Rules that span several keys: is a valid configuration also enough to start with?"""

from __future__ import annotations

from collections.abc import Iterator

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError

SEARCH_NEEDS_AN_INDEX = (
    "retriever.search: says how retriever.index is searched, which is not set; a server is told "
    "with "
    "tspo serve --set KEY=VALUE"
)


def check_complete(config: Config) -> None:
    """Refuse a configuration that could not train.

    Raises:
        InvalidInputError: the first rule that is broken, in one line.
    """
    for problem in _problems(config):
        raise InvalidInputError(problem)


def _problems(config: Config) -> Iterator[str]:
    yield from _sft_problems(config) if config.kind == "sft" else _rl_problems(config)
    if config.model.hidden_size % 32:
        yield f"model.hidden_size: expected a multiple of 32, got {config.model.hidden_size}"
    if config.eval.every and not config.eval.data:
        yield "eval.every: evaluations are asked for, but eval.data names no question file"
    if config.deepspeed.offload_optimizer and config.deepspeed.zero_stage == 0:
        yield "deepspeed.offload_optimizer: needs deepspeed.zero_stage 1, 2 or 3"
    searches = config.rollout.max_searches > 0 and (config.kind != "sft" or bool(config.eval.data))
    retriever = config.retriever
    if searches and not (retriever.index or retriever.url or retriever.qdrant.url):
        yield "retriever: give retriever.index or retriever.url, or set rollout.max_searches = 0"
    if retriever.search.given() and not retriever.index:
        yield SEARCH_NEEDS_AN_INDEX
    if retriever.qdrant.url and not retriever.qdrant.collection:
        yield "retriever.qdrant.collection: name the collection to search"
    if retriever.qdrant.url and retriever.qdrant.kind == "dense" and not retriever.qdrant.encoder:
        yield (
            "retriever.qdrant.encoder: dense search needs the encoder that the collection was "
            "made with"
        )


def _rl_problems(config: Config) -> Iterator[str]:
    rollout = config.rollout
    if not config.data.train:
        yield f'data.train: kind = "{config.kind}" needs question files to train on'
    if not config.model.path:
        yield f'model.path: kind = "{config.kind}" needs a model to start from'
    if rollout.group_size < 2 and config.credit.algorithm in ("grpo", "tspo"):
        yield (
            f"rollout.group_size: {config.credit.algorithm} compares the rollouts of a question, "
            "so give 2 or more"
        )
    if rollout.temperature == 0:
        yield (
            "rollout.temperature: greedy rollouts of a question are all the same; give a "
            "temperature above 0"
        )
    if rollout.engine == "vllm" and (rollout.top_p < 1 or rollout.top_k > 0):
        yield (
            "rollout.engine: vllm gives log-probs after top_p and top_k, the loss needs those "
            "before; switch both off"
        )
    if rollout.engine == "vllm" and not config.vllm.url and config.vllm.tensor_parallel > 1:
        yield (
            "vllm.tensor_parallel: an engine in a training process has that process's questions "
            "alone and cannot be "
            "divided over several; start servers with `tspo engine --tensor-parallel` and name "
            "them in vllm.url"
        )
    if config.vllm.url and config.vllm.sleep:
        yield "vllm.sleep: only an engine in this process can sleep; remove vllm.url or vllm.sleep"
    if rollout.one_step_off and rollout.dynamic_sampling:
        yield (
            "rollout.one_step_off: dynamic_sampling asks for more rollouts once some are scored; "
            "switch one off"
        )
    if rollout.one_step_off and config.vllm.sleep:
        yield (
            "rollout.one_step_off: the engine samples while the learner works and cannot sleep; "
            "set vllm.sleep to 0"
        )
    if config.lora.rank and config.lora.dropout:
        yield (
            "lora.dropout: the policy that is trained would not be the policy that rolls out; "
            "set it to 0"
        )
    if config.train.updates_per_step > rollout.questions_per_step * rollout.group_size:
        yield (
            "train.updates_per_step: more updates than rollouts in a step (questions_per_step x "
            "group_size)"
        )


def _sft_problems(config: Config) -> Iterator[str]:
    if not (config.data.world or config.data.demonstrations):
        yield 'data: kind = "sft" needs data.world or data.demonstrations'
    if config.rollout.engine == "vllm":
        yield 'rollout.engine: kind = "sft" evaluates with the transformers engine; remove vllm'
