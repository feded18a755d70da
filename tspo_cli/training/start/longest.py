"""The longest sequence of a run: measured on its own data where that is here, else its limits."""

from __future__ import annotations

from pathlib import Path

from tspo_cli.config.schema import Config
from tspo_cli.data.readers import resolve_data
from tspo_cli.errors import MissingResourceError
from tspo_cli.models.load_model import load_tokenizer
from tspo_cli.rollout.prompt_length import measure_prompts
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.sequences import demonstration_lengths
from tspo_cli.training.planning.estimate import LongestSequence
from tspo_cli.training.planning.model_shape import local_file
from tspo_cli.training.rl.question_batches import read_training_questions
from tspo_cli.training.sft.sft_step import recorded_demonstrations

_TOKENIZERS = ("tokenizer.json", "vocab.json")


def longest_sequence(config: Config) -> LongestSequence:
    """What `config` can produce at most. No weights are loaded.

    SFT has the longest of its demonstrations. Other kinds have the longest prompt of their
    questions and the limits of turns and observations. The limits alone count where the files or
    the tokenizer are not on this machine, and for demonstrations of a world.

    Raises:
        InvalidInputError: data or tokenizer that cannot be used.
    """
    limits = LongestSequence.by_limits(config)
    if not _is_here(config) or (config.kind != "sft" and config.model.max_context):
        return limits
    protocol = SearchProtocol.from_config(
        load_tokenizer(config.model.path, config.model.revision), config.rollout
    )
    if config.kind == "sft":
        lengths = demonstration_lengths(recorded_demonstrations(config), protocol)
        return LongestSequence(max(lengths), "the longest demonstration", tuple(lengths))
    most = config.rollout.max_prompt_tokens
    prompt = min(most, measure_prompts(read_training_questions(config), protocol, most).longest)
    tokens = limits.tokens - most + prompt
    return LongestSequence(tokens, f"the longest prompt, {prompt:,}, and the limits after it")


def _is_here(config: Config) -> bool:
    """True where the tokenizer and all files of training data are on this machine."""
    model, revision = config.model.path, config.model.revision
    if not model or not any(local_file(model, name, revision) for name in _TOKENIZERS):
        return False
    if config.kind == "sft":
        names = [] if config.data.world else config.data.demonstrations
        return bool(names) and all(Path(name).is_file() for name in names)
    try:
        return all(resolve_data(name).is_file() for name in config.data.train)
    except MissingResourceError:
        return False
