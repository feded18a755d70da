"""The processes that a launcher has started train one experiment into one run directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tspo_cli import __version__
from tspo_cli.config.schema import Config
from tspo_cli.config.tables import flatten
from tspo_cli.digests import file_digest
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import COMMAND_NAME
from tspo_cli.text.secrets import without_secrets
from tspo_cli.training.core.distributed import broadcast_json, gather_json, rank, world_size
from tspo_cli.training.launch.same_experiment import PLACES, shown_value

_OF_A_NODE = (
    *PLACES,
    *("launch.", "track.", "prepare", "train.threads"),
    *("vllm.url", "vllm.token_file", "retriever.token_file", "judge.url", "judge.key_env"),
)
"""Settings that may differ between nodes: where inputs lie and servers listen."""
FILE_PATIENCE = 60.0
"""Seconds in which a file that one node wrote is seen on the others."""
_MOST_SHOWN = 3


def require_same_command(config: Config, *, resume: bool, overwrite: bool) -> None:
    """Compare what the processes were told. All of them call it.

    Raises:
        InvalidInputError: one was started with other settings, flags or another version than the
            first.
    """
    told = {"tspo": __version__, "--resume": resume, "--overwrite": overwrite}
    settings = flatten(config.section_dict())
    told |= {key: value for key, value in settings.items() if not key.startswith(_OF_A_NODE)}
    require_same("was started with other settings", told, "start all with the same command")


def require_same(what: str, own: dict[str, Any], advice: str) -> None:
    """Compare `own` with that of the other processes, which all call it; `what` a process with
    another one does, in words.

    Raises:
        InvalidInputError: a process has another value of a key than the first.
    """
    first, *others = gather_json(own)
    for number, other in enumerate(others, start=1):
        keys = sorted(key for key in first | other if first.get(key) != other.get(key))
        if keys:
            changes = ", ".join(
                f"{key} ({shown_value(other.get(key))}, there {shown_value(first.get(key))})"
                for key in keys[:_MOST_SHOWN]
            )
            raise InvalidInputError(
                f"process {number} of {world_size()} {what} than process 0: "
                f"{without_secrets(changes)}; {advice}"
            )


def require_shared_folder(run: Path) -> None:
    """Look for what the first process has written into `run`. All processes call it.

    Raises:
        InvalidInputError: this process has another folder there, or none.
    """
    commands = run / COMMAND_NAME
    wanted = broadcast_json(file_digest(commands) if rank() == 0 else None)
    until = time.monotonic() + FILE_PATIENCE
    while not (commands.exists() and file_digest(commands) == wanted):
        if time.monotonic() > until:
            raise InvalidInputError(
                f"{run.absolute()}: is not the folder that process 0 writes the run into; start "
                "all processes in the same folder, and put the run on a disk that they share"
            )
        time.sleep(0.1)
