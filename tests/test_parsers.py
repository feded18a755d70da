"""No parser or reader needs more than a pass over its input, and no generated input breaks one."""

from __future__ import annotations

import json
import random
import re
import runpy
import signal
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tspo_cli.config.load_config import load_config
from tspo_cli.credit.gold_match import contains_answer, is_degenerate
from tspo_cli.credit.outcome import well_formed
from tspo_cli.data.check import AnswerFinder
from tspo_cli.data.normal_form import normalize_text
from tspo_cli.data.word_forms import wanted
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.methods.call_forms import without_end_tokens
from tspo_cli.reporting.rendering.marks import marked
from tspo_cli.rollout.protocol import parse_action
from tspo_cli.rollout.thoughts import split_thoughts
from tspo_cli.text.repeated_keys import once
from tspo_cli.text.strict_json import parse_lines

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


def test_a_passage_without_spaces_is_searched_in_one_pass(hang_guard: None) -> None:
    finder = AnswerFinder([["1967"], ["never"]])
    finder.feed("x-" * 200_000 + "1967\u5e74")
    assert finder.answered == {0}


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


WORDS = [
    "<search>",
    "</search>",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "<|im_end|>",
    "</s>",
    "<|x",
    "<|",
    "|>",
    "The",
    "a",
    "an",
    "so",
    "A.N.",
    "J.",
    "K.",
    "end.",
    "1,500",
    "3.5",
    "1/2",
    "é",
    "à",
    "İ",
    "—",
    "中",
    "한은",
    "ก",
    "10²",
    "_",
    "\x01",
    "\x02",
]
LINES = [
    *(
        '{"step": 1}',
        '{"a": NaN}',
        '{"a": 1e400, "b": -0}',
        '{"a": "\\ud83d"}',
        '{"a": {"b": [1.5]}}',
    ),
    *(
        '{"a": "\u2028"}',
        '{"a": 1, "a": ":"}',
        "\ufeff{}",
        " {}\r",
        "",
        " \t",
        "[1]",
        '{"a": [1',
        "2]}",
        "{},{}",
        '{"a": "x',
    ),
    *('y"}', f'{{"a": {"[" * 250}{"]" * 250}}}', f'{{"a": {"1" * 5000}}}'),
]
PIECES = st.lists(st.sampled_from([*WORDS, " ", "\n", "\t", "\u2028"]), max_size=16).map("".join)


@given(lines=st.lists(st.sampled_from(LINES), max_size=6), first=st.integers(1, 9))
@example(lines=[*LINES[3:4] * 9, "", LINES[0], *LINES[3:4] * 3, *LINES[:2], "\ufeff{}"], first=1)
@example(lines=[*LINES[3:4] * 9, "", LINES[0], LINES[3], "[1]", "{}"], first=3)
@example(lines=[*LINES[:1] * 3, " ", *LINES[3:4] * 5, '{"a": "x', "[1]"], first=1)
@example(lines=["{}", "[1]", *LINES[3:4] * 3, '{"a": "x'], first=1)
def test_lines_are_read_together_as_one_by_one(lines: list[str], first: int) -> None:
    expected: list[object] = []
    for number, line in enumerate(lines, start=first):
        if line.strip():
            try:
                found = json.loads(line.removeprefix("\ufeff"), object_pairs_hook=once)
                expected.append(found)
            except ValueError:
                expected.append(None)
            if not isinstance(expected[-1], dict):
                with pytest.raises(InvalidInputError, match=f"^m.jsonl:{number}: "):
                    parse_lines([line.encode() for line in lines], Path("m.jsonl"), first)
                return
    read = parse_lines([line.encode() for line in lines], Path("m.jsonl"), first)
    assert repr(read) == repr(expected)


@given(text=PIECES)
def test_the_action_is_the_first_complete_block(text: str) -> None:
    blocks = [
        (match.start(), kind, match[1].strip())
        for kind in ("search", "answer")
        for match in re.finditer(f"(?s)<{kind}>(.*?)</{kind}>", text)
    ]
    first = min(blocks)[1:] if blocks else ("invalid", "")
    action = parse_action(text, finish_reason="stop", may_search=True)
    assert (action.kind, action.content) == (first if first != ("search", "") else ("invalid", ""))
    tags = re.findall("</?(?:search|answer)>", text)
    balanced = text.count("<think>") == text.count("</think>")
    one = tags in (["<search>", "</search>"], ["<answer>", "</answer>"])
    assert well_formed(text) == (not text or (one and balanced))


@given(text=PIECES, opened=st.booleans())
def test_thoughts_are_those_of_a_reading_from_left_to_right(text: str, opened: bool) -> None:
    said, part, thinking = [], "", opened
    for piece in re.split("(</?think>)", text):
        if piece == "<think>" and not thinking:
            said, part, thinking = [*said, part], "", True
        elif piece == "</think>":
            said, part, thinking = said if thinking else [], "", False
        else:
            part += piece
    expected = (" ".join(said), part) if thinking else (" ".join([*said, part]), None)
    assert split_thoughts(text, opened=opened) == expected


@given(text=PIECES)
def test_end_tokens_and_normal_forms(text: str) -> None:
    kept = text.rstrip()
    while end := re.search(r"(?:<\|[a-z_]{1,40}\|>|</s>)\Z", kept):
        kept = kept[: end.start()].rstrip()
    assert without_end_tokens(text) == kept
    # The steps of SQuAD's evaluation script, in its order.
    lower = "".join(char for char in text.lower() if char not in string.punctuation)
    assert normalize_text(text) == " ".join(re.sub(r"\b(a|an|the)\b", " ", lower).split())


@given(text=PIECES, gold=PIECES)
@example(text="\x01\x01", gold="\x01\x01")
@example(text="<|im_end|><search><|im_end|>", gold="<|im_end|><|im_end|>")
@example(text="New <think>Doc 1 (Title: York)", gold="New York")
def test_marks_are_where_answers_are_found(text: str, gold: str) -> None:
    pieces = marked(text, [gold])
    assert "".join(pieces) == text
    if not is_degenerate(gold) and wanted(gold) is not None:
        assert (len(pieces) > 1) == contains_answer(text, [gold])
