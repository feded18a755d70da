"""A program: builds an index in children that are killed before their n-th file operation, then
goes on.

    python kill_every_step.py CORPUS SCRATCH KIND ENCODER SETTINGS_AS_JSON STRIDE [overwrite]

n is 1, 1 + STRIDE, ... until a build ends before it is killed. Children are forked, so that the
libraries are loaded once. Prints as JSON how many builds were killed, and at which steps the one
that went on left other files than one that was left alone.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import tspo_cli.retrieval.bm25.bm25_build
import tspo_cli.retrieval.dense.dense_build  # noqa: F401
from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.console import set_quiet
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.index.build_index import build_index

OPERATIONS = {
    "open",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "shutil.rmtree",
}


def kill_before(step: int, folder: Path) -> None:
    """Kill this process before its operation number `step`, from 1, on a file below `folder`."""
    done = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event in OPERATIONS and isinstance(arguments[0], str | os.PathLike):
            done += os.fspath(arguments[0]).startswith(str(folder))
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def forked(step: int, corpus: Path, out: Path, options: dict[str, Any]) -> int:
    """Exit code of a build in a child, -9 when it was killed at `step` (0: left alone)."""
    child = os.fork()
    if child == 0:
        try:
            if step:
                kill_before(step, out.parent)
            build_index(corpus, out, **options)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def main() -> None:
    corpus, scratch, kind, encoder, settings, stride = sys.argv[1:7]
    options: dict[str, Any] = {"kind": kind, "encoder": encoder, "settings": json.loads(settings)}
    set_quiet(True)
    if encoder:
        Encoder(encoder, DenseSettings()).encode(["loads the libraries"])
    whole, folder = Path(scratch) / "whole", Path(scratch) / "killed"
    out = folder / "index"
    assert forked(0, Path(corpus), whole / "index", options) == 0
    killed = 0
    different = []
    for step in itertools.count(1, int(stride)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if "overwrite" in sys.argv:
            shutil.copytree(whole / "index", out)
            options["overwrite"] = True
        code = forked(step, Path(corpus), out, options)
        if code != -signal.SIGKILL:
            break
        killed += 1
        assert forked(0, Path(corpus), out, options) == 0, (
            f"cannot go on after a kill at step {step}"
        )
        if contents(folder) != contents(whole):
            different.append(step)
    assert code == 0, f"the build that is not killed ends with {code}"
    print(json.dumps({"killed": killed, "different": different}))


if __name__ == "__main__":
    main()
