"""Optional sinks beside metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tspo_cli.config.schema import Config
from tspo_cli.errors import MissingResourceError

Track = Callable[[int, dict[str, float]], None]


@contextmanager
def tracker(config: Config, run: Path, chief: bool) -> Iterator[Track]:
    """A function that sends the metrics of a step to the sinks that config.track names.

    Raises:
        MissingResourceError: TensorBoard is asked for and not installed.
    """
    if not (config.track.tensorboard and chief):
        yield lambda step, metrics: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingResourceError(
            'track.tensorboard: not installed; pip install "tspo-cli[track]"'
        ) from None
    with SummaryWriter(str(run / "tensorboard")) as writer:

        def track(step: int, metrics: dict[str, float]) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        yield track
