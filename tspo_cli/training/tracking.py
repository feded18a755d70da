"""Metrics sent to other places than metrics.jsonl: TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tspo_cli.config.schema import Config
from tspo_cli.packages import missing

Track = Callable[[int, dict[str, float]], None]


@contextmanager
def tracker(config: Config, run: Path, is_main_process: bool) -> Iterator[Track]:
    """A function that sends the metrics of a step to TensorBoard, where config.track asks for it.

    Raises:
        MissingResourceError: TensorBoard is not installed.
    """
    if not (config.track.tensorboard and is_main_process):
        yield lambda step, metrics: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing({"tensorboard": "track.tensorboard"}, str(error)) from None
    with SummaryWriter(str(run / "tensorboard")) as writer:

        def track(step: int, metrics: dict[str, float]) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        yield track
