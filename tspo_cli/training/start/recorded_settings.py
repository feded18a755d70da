"""The two records that a run has of its settings, and whether they say the same."""

from __future__ import annotations

from pathlib import Path

from tspo_cli import runs
from tspo_cli.config.load_config import read_resolved
from tspo_cli.config.tables import flatten
from tspo_cli.plain_files import read_plain_text
from tspo_cli.text.toml_text import parse_toml

_MOST_NAMES = 3


def settings_of_run(run: Path) -> tuple[str, str]:
    """A state and a detail, as a finding has them: the kind of training, and the keys whose values
    in config.toml, which people read and may edit, are not those that the run has.

    Raises:
        InvalidInputError, MissingResourceError: one of the two cannot be read.
    """
    kind, text = read_resolved(run).kind, run / runs.CONFIG_TEXT_NAME
    if not text.exists():
        return "ok", kind
    written = flatten(parse_toml(read_plain_text(text), str(text)))
    used = flatten(runs.read_json(run / runs.CONFIG_NAME))
    differ = sorted(key for key in written.keys() | used if written.get(key) != used.get(key))
    if not differ:
        return "ok", kind
    more = f" and {len(differ) - _MOST_NAMES} more" if len(differ) > _MOST_NAMES else ""
    return "note", (
        f"{kind}; {text.name} has other values than {runs.CONFIG_NAME}, which counts, for "
        f"{', '.join(differ[:_MOST_NAMES])}{more}"
    )
