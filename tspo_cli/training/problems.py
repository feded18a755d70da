"""Every reason why `tspo train` would refuse a configuration, found from the configuration alone.

`tspo config validate`, `tspo plan`, `tspo train`, `tspo train --dry-run` and `tspo sweep` all ask
`problems`. Whether files, index and model exist and can be opened is another question: a missing
one is exit code 4, and only `tspo train` and its --dry-run open them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tspo_cli.config.rules import rule_problems
from tspo_cli.config.schema import Config
from tspo_cli.config.sections.prompt_value import QUESTION
from tspo_cli.config.urls import URL_FORM, without_login
from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.plain_files import is_plain
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import LEVEL_2_OF_ADAPTERS
from tspo_cli.rollout.prompts import STYLES, unknown_prompt
from tspo_cli.training.early_stop import parse_rules

VLLM_BESIDE_LEARNER = (
    "rollout.one_step_off: vLLM in the learner's process cannot generate on its GPU while it "
    "trains: vLLM's kernels and memory are bound to the thread that started it; start servers with "
    "`tspo engine` and name them in vllm.url, or set rollout.one_step_off to false"
)
_HTTP = re.compile(r"https?://[^/\s]+")


def problems(config: Config, *, gpu: bool = False) -> Iterator[str]:
    """One line for each problem, which names the key and what to do. Nothing for a configuration
    that can train, on a CPU or (`gpu`) on GPUs.

    Raises:
        MissingResourceError: a file of the user's own functions does not exist.
    """
    yield from rule_problems(config)
    for rule in config.train.stop_when:
        try:
            parse_rules([rule], config.kind)
        except InvalidInputError as error:
            yield str(error)
    if config.train.average_checkpoints > 1 and not config.checkpoint.every:
        yield "train.average_checkpoints: needs checkpoints; set checkpoint.every to 1 or more"
    prompt = config.rollout.prompt
    if prompt not in STYLES and QUESTION not in prompt and not _names_a_file(prompt):
        yield unknown_prompt(prompt)
    for url in config.retriever.url:
        if not _HTTP.match(url):
            got = without_login(url)
            yield f"retriever.url: expected a URL like {URL_FORM}, got {got!r}"
    if not config.launch.engines:  # which `tspo launch` starts as servers
        yield from engine_problems(config, gpu=gpu)


def refuse_servers_of_launch(config: Config) -> None:
    """Refuse to train without the vLLM servers of [launch], which `tspo launch` starts and names in
    vllm.url: engines in the training processes are something else, in memory and in what is safe.

    Raises:
        UsageError: [launch] has engines and nobody has started them.
    """
    if config.launch.engines and config.rollout.engine == "vllm" and not config.vllm.url:
        raise UsageError(
            f"launch.engines: {counted(config.launch.engines, 'vLLM server')} of a node, which "
            "`tspo train` does not start; use `tspo launch`, or set launch.engines to 0 for "
            "engines in the training processes"
        )


def launch_warnings(config: Config) -> Iterator[str]:
    """One sentence where training opens an index that [launch] would serve."""
    if config.launch.retriever != "none" and config.retriever.index:
        yield (
            "launch.retriever: `tspo train` starts no server; each training process opens "
            f"{config.retriever.index} itself, with memory of its own; `tspo launch` serves it"
        )


def engine_problems(config: Config, *, gpu: bool) -> Iterator[str]:
    """What keeps vLLM from working in the learner's process, on a GPU or a CPU."""
    if config.rollout.engine != "vllm" or config.vllm.url:
        return
    if gpu and config.rollout.one_step_off:
        yield VLLM_BESIDE_LEARNER
    is_bfloat16 = config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and gpu)
    if config.vllm.sleep == 2 and config.lora.as_adapters(bfloat16=is_bfloat16):
        yield LEVEL_2_OF_ADAPTERS


def refuse_problems(config: Config, where: str = "", *, gpu: bool = False) -> None:
    """Refuse a configuration that cannot train. `where` names it in the message, `gpu` says that it
    is for GPUs.

    Raises:
        InvalidInputError: the first problem, and how many there are.
    """
    found = list(problems(config, gpu=gpu))
    if found:
        prefix = f"{where}: " if where else ""
        more = len(found) - 1
        suffix = f" (and {more} more; `tspo config validate` lists them)" if more else ""
        raise InvalidInputError(f"{prefix}{found[0]}{suffix}")


def _names_a_file(prompt: str) -> bool:
    path = Path(prompt)
    return is_plain(path) or bool(path.suffix) or len(path.parts) > 1
