"""Every key of an experiment file as a Markdown page: docs/configuration.md."""

from __future__ import annotations

import json

from tspo_cli.config.keys import Key, all_keys

_TITLE = "# Configuration ([U1 to U11](algorithms.md), [composing files](experiments.md))"


def keys_page() -> str:
    """One table for each top-level section, and first one of the keys that are in none."""
    tables: dict[str, list[str]] = {}
    for key in all_keys().values():
        section, _, _ = key.name.rpartition(".")
        tables.setdefault(section.partition(".")[0], []).append(_row(key))
    parts = []
    for section, rows in tables.items():
        title = f"## `[{section}]`" if section else _TITLE
        head = ["| key | default | expects | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([title, *head, *rows]) + "\n")
    return "\n".join(parts)


def _row(key: Key) -> str:
    default = json.dumps(key.default, ensure_ascii=False)
    cells = (f"`{key.name}`", f"`{default}`", key.expects, key.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
