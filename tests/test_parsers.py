"""No parser or reader needs more than a pass over its input, and no generated input breaks one."""

from __future__ import annotations

import random
import runpy
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.protocol import parse_action

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "experiments" / "reliability" / "parsers.py"))
FUZZ = runpy.run_path(str(ROOT / "experiments" / "reliability" / "fuzz.py"))
SIZE = 100_000
HANG_SECONDS = 8.0
"""CPU time after which an input hangs a parser. A linear one needs at most some tenths of a second;
the quadratic tag parser needed 11 s for this size.
"""


@pytest.fixture
def hang_guard() -> Iterator[None]:
    """Ends a test that would not come back."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no end after {HANG_SECONDS} s of CPU time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("name", SCRIPT["PARSERS"])
def test_expensive_inputs_do_not_hang_a_parser(name: str, hang_guard: None) -> None:
    parser = SCRIPT["PARSERS"][name]
    for label, parts in parser.inputs.items():
        text = SCRIPT["text_of"](parts, SIZE)
        assert len(text.encode()) > SIZE * 0.9, label
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)  # anew for every input
        parser.run(text)


@pytest.mark.parametrize(
    ("repeated", "end", "kind", "content"),
    [
        ("<search>", "", "invalid", ""),
        ("<search></answer>", "", "invalid", ""),
        ("<answer>", "</search><search>x</search>", "search", "x"),
        ("</search></answer>", "<search> x </search>", "search", "x"),
    ],
)
def test_the_action_is_found_behind_a_megabyte(
    repeated: str, end: str, kind: str, content: str, hang_guard: None
) -> None:
    text = repeated * (1_000_000 // len(repeated)) + end
    action = parse_action(text, finish_reason="stop", may_search=True)
    assert (action.kind, action.content) == (kind, content)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(FUZZ["TARGETS"])))
def test_generated_inputs_are_read_or_refused_in_one_line(seed: int, name: str) -> None:
    target = FUZZ["TARGETS"][name]
    data = FUZZ["generated"](target, random.Random(seed))
    with tempfile.TemporaryDirectory() as folder:
        assert FUZZ["run_case"](target, data, Path(folder)) in ("ok", "refused")


def test_a_setting_that_is_no_text_is_refused() -> None:
    for setting in ("model.path=a\udcffb", "\udc80=1", "train.steps=[\ud800]"):
        with pytest.raises(InvalidInputError, match="UTF-8"):
            load_config([], [setting])
