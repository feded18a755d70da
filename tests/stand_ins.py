"""Directories, pipes, devices and sockets where a command expects a file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

KINDS = ("a directory", "a named pipe", "a device", "a socket")


def stand_in(path: Path, kind: str) -> None:
    """Something that is no file in the place of a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    match kind:
        case "a directory":
            path.mkdir()
        case "a named pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "a socket":
            with socket.socket(socket.AF_UNIX) as made, pytest.MonkeyPatch.context() as patch:
                patch.chdir(path.parent)  # a long path is none for a socket
                made.bind(path.name)
