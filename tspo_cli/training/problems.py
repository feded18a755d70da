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
from tspo_cli.config.urls import without_login
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.prompts import STYLES
from tspo_cli.training.early_stop import parse_rules

_HTTP = re.compile(r"https?://[^/\s]+")


def problems(config: Config) -> Iterator[str]:
    """One line for each problem, which names the key and what to do. Nothing for a configuration
    that can train.

    Raises:
        MissingResourceError: a file of the user's own functions does not exist.
    """
    yield from rule_problems(config)
    for rule in config.train.stop_when:
        try:
            parse_rules([rule])
        except InvalidInputError as error:
            yield str(error)
    prompt = config.rollout.prompt
    if prompt not in STYLES and QUESTION not in prompt and not _names_a_file(prompt):
        yield (
            f"rollout.prompt: {prompt!r} is neither a style ({', '.join(STYLES)}) nor a template "
            "file"
        )
    for url in config.retriever.url:
        if not _HTTP.match(url):
            got = without_login(url)
            yield f"retriever.url: expected a URL like http://127.0.0.1:8000, got {got!r}"


def refuse_problems(config: Config, where: str = "") -> None:
    """Refuse a configuration that cannot train. `where` names it in the message.

    Raises:
        InvalidInputError: the first problem, and how many there are.
    """
    found = list(problems(config))
    if found:
        prefix = f"{where}: " if where else ""
        more = len(found) - 1
        suffix = f" (and {more} more; `tspo config validate` lists them)" if more else ""
        raise InvalidInputError(f"{prefix}{found[0]}{suffix}")


def _names_a_file(prompt: str) -> bool:
    path = Path(prompt)
    return path.is_file() or bool(path.suffix) or len(path.parts) > 1
