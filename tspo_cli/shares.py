"""What several processes write together, shared out by size."""

from __future__ import annotations

from collections.abc import Mapping


def shares(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Names in `count` parts of about the same total size, the same on all processes."""
    parts: list[list[str]] = [[] for _ in range(count)]
    totals = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        smallest = totals.index(min(totals))
        parts[smallest].append(name)
        totals[smallest] += sizes[name]
    return parts
