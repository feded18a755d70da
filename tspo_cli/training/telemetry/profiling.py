"""A trace of two training steps, for chrome://tracing and Perfetto (`tspo train --profile`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from tspo_cli.runs import TRACE_NAME, step_name
from tspo_cli.training.core.distributed import rank

STEPS = 2  # after the first one, which warms up


def step_profiler(run: Path, first: int, wanted: bool) -> Callable[[int], Any]:
    """A context manager for each step. It writes RUN/trace/<step>_rank_<r>.json.gz for the two
    steps after `first`.
    """

    @contextmanager
    def traced(step: int) -> Iterator[None]:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profile:
            yield
        folder = run / TRACE_NAME
        folder.mkdir(exist_ok=True)
        profile.export_chrome_trace(str(folder / f"{step_name(step)}_rank_{rank()}.json.gz"))

    return lambda step: traced(step) if wanted and first < step <= first + STEPS else nullcontext()
