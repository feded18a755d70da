"""A worker of `tspo eval` without an engine: it answers at once, or does what a question says."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    # A model called `replaced` is another one for every process.
    model = f"m{os.getpid()}" if job["config"]["model"]["path"] == "replaced" else "m"
    say(ready={"model": model, "kind": "transformers-float32", "positions": 0})
    for line in sys.stdin:
        for question in json.loads(line):
            if question["question"] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if question["question"] == "end":
                sys.exit(7)
            if question["question"] == "fail":
                say(error="retriever: nobody answers; use --resume", code=5)
                sys.exit(5)
            say(item={"key": question["id"], "by": os.getpid()}, seconds=0.5)
        say(done=True)


if __name__ == "__main__":
    main()
