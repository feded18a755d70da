"""What `tspo doctor` finds in a directory, a line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tspo_cli.disk import reason
from tspo_cli.plain_files import cannot_be_read

_ADVISED = ("put back", "give this user", "remove it")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `state` is ok, note (harmless) or problem (something to do)."""

    name: str
    state: str
    detail: str


def said_once(found: Iterable[Finding]) -> list[Finding]:
    """The findings without problems that another one says, too."""
    seen: set[str] = set()
    return [one for one in found if one.state != "problem" or not _is_known(one, seen)]


def _is_known(finding: Finding, seen: set[str]) -> bool:
    """True for a problem that is in `seen`, whatever is to be done about it; else it is added."""
    problem = finding.detail.split(";")[0]
    known = problem in seen
    seen.add(problem)
    return known


def advised(error: Exception, advice: str) -> str:
    """The message with an advice, unless it has one."""
    said = str(error)
    if isinstance(error, OSError):
        said = cannot_be_read(error) or reason(error)
    return said if any(word in said for word in _ADVISED) else f"{said}; {advice}"
