"""CPU milliseconds of every parser and reader for its worst input of 1 MB.

    python experiments/reliability/parsers.py [--bytes 1000000] [--all] [--json]

Every parser is given the inputs that its own rules make expensive: openings without an end, runs of
separators, near-misses of a gold answer, deep nesting, damaged ends. The table has the worst input
of each parser (`--all`: every input). A time is the best of three calls in this process. `growth`
is that time divided by the time for a quarter of the input: about 4 for a linear parser, 16 for a
quadratic one. Beside the readers stands what the standard library alone needs for the same text.
"""

from __future__ import annotations

import argparse
import ast
import csv
import io
import json
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks.common import machine
from tspo_cli.config.layers import read_layers
from tspo_cli.credit.gold_match import clear_texts, contains_answer, exact_match, f1_score
from tspo_cli.credit.laboratory.group_file import read_group
from tspo_cli.credit.outcome import well_formed
from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.data.readers import read_passages, read_questions
from tspo_cli.errors import TspoError
from tspo_cli.evaluation.judging.verdict import verdict
from tspo_cli.evaluation.methods.call_forms import find_calls, without_end_tokens
from tspo_cli.evaluation.methods.ircot import first_sentence
from tspo_cli.evaluation.methods.plain import after_marker
from tspo_cli.reporting.rendering.marks import marked
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import parse_action
from tspo_cli.rollout.shown import shown_lengths
from tspo_cli.rollout.thoughts import split_thoughts
from tspo_cli.runs import read_jsonl
from tspo_cli.training.sft.demonstration_file import read_demonstrations
from tspo_cli.training.sft.scripting.scripted_search import _names
from tspo_cli.training.sft.scripting.scripted_thoughts import _quotation, plain_title

ROUNDS = 3
LONG_GOLD = " ".join(f"word{number}" for number in range(200))
NUMBER = "NUMBER"
"""Stands in what is repeated for that of the copy, in six digits."""
REPEATED_GOLD = " ".join(["so"] * 200)


@dataclass(frozen=True)
class Parser:
    """A parser and its expensive inputs: for each a text that begins, is repeated, and ends it.

    `floor` is what the parser cannot do without: that of the standard library for the same text.
    """

    run: Callable[[str], object]
    inputs: Mapping[str, tuple[str, str, str]]
    floor: Callable[[str], object] | None = None


def repeats(*parts: str) -> dict[str, tuple[str, str, str]]:
    """Inputs that repeat one part."""
    return {f"{part!r} repeated": ("", part, "") for part in parts}


TAGS = repeats(
    "<search>",
    "<answer>",
    "<search><answer>",
    "<search></answer>",
    "<think>",
    "</think>",
    "<",
    "a ",
) | {"<search> and blanks": ("<search>", " ", "</search>")}
CALLS = repeats(
    "<tool_call>", "<tool_call>{", '<tool_call>["', "<tool_call><function=", "<function=",
    "<function=a>", "<function=a><parameter=b>", "```json ", "[TOOL_CALLS]", "[TOOL_CALLS]a[ARGS]",
    "[TOOL_CALLS]a{", "<|python_tag|>a.call(", "<|python_start|>[a(b='",
    "<|start|>assistant to=a<|channel|>", "to=functions.a", "<invoke name=", '<invoke name="a">',
    '<｜DSML｜invoke name="a">', "[a(b='", '[a(b="c", ', '[a(b="c"), ', "[a(", "[a", "<t", "[",
    '{"a":', "[T",
) | {
    "open parameters": ("<function=a>", "<parameter=b>", "</function>"),
    "open names": ("<function=a>", "<parameter=", "</function>"),
    "open parameters of an invocation": ('<invoke name="a">', '<parameter name="b">', "</invoke>"),
    "many calls of Python": ("[", 'a(b="c"), ', "]"),
    "many arguments of Python": ("[a(", 'b="c", ', ")]"),
    "a long string of Python": ("[a(b='", "\\'", "')]"),
}  # fmt: skip
ENDS = repeats(" ", "<|im_end|>", " <|im_end|>", "<|a") | {
    "blanks in the middle": ("a", " ", "a"),
    "end tokens in the middle": ("a", "<|im_end|> ", "a"),
}
SPOKEN = repeats("answer ", "answer is ", "Answer: ", "*", ". ", "\n", "\u2028") | {
    "blanks behind the marker": ("the answer is", " ", ""),
    "stars behind the marker": ("answer", "*", " "),
    "markers, then the word alone": ("", "Answer: ", "answer " * 100),
}
VERDICTS = repeats("correct\n", "```", "```\n", "{", "[") | {
    "an open code block": ("```json", "\n", ""),
    "blank lines in a code block": ("```json\n", "\n", "x```"),
}
PLAIN = repeats(
    "1,500.5 ", "1/2 ", "\uff21", "a ", "x-", "the ", "\u0301", "\u00e9", "\u4e2d", "a\u4e2d",
    "1\u00b2 ", "1\u00b2\t", "ab ", "ab  ", "ab\1 ", "a-b\u2014", "a\u2014", "a\1b ", "abc ",
    "\ufdfa", "\u00bd ", "1^2", "1.5 ", "-", "Doc 1 ", "<search>", "\u0130 ", "a\u2014 ",
    "a\u3099", "\u0958",
)  # fmt: skip
MATCHES = PLAIN | {
    "long characters behind an accent": ("\u00e9", "\ufdfa", ""),
    "near-misses of a long gold": ("", LONG_GOLD[:-1] + " ", ""),
    "near-misses of a repeated gold": ("", REPEATED_GOLD[:-1] + " ", ""),
    "near-misses in what repeats itself": ("", "so-" * 198 + "soso-", ""),
    "near-misses within a word": ("", "so-" * 199 + "s ", REPEATED_GOLD.replace(" ", "")),
}


MARKS = {
    f"a gold, then {label}": ("x x ok \u00e9\u00e9 " + start, repeated, end)
    for label, (start, repeated, end) in MATCHES.items()
    if label.startswith(
        ("'the", "'1,", "'x-", "'\u0301", "'a\u4e2d", "'\ufdfa", "near-misses of a l")
    )
}


def contains(text: str) -> bool:
    """Look for a long, a repetitive and a short gold answer in a text that was not seen before."""
    clear_texts()
    return contains_answer(text, [LONG_GOLD, REPEATED_GOLD, "x x", "word199"])


def mark(text: str) -> None:
    """Mark a long and two short gold answers in a text that was not seen before."""
    clear_texts()
    marked(text, [LONG_GOLD, "x x", "ok \u00e9\u00e9"])


def normalize(text: str) -> None:
    """Both metrics of an answer."""
    normalize_answer.cache_clear()
    exact_match(text, ["a b c"])
    f1_score(text, ["a b c"])


def json_lines(text: str) -> None:
    """The standard library alone for JSON lines; a line that is none is refused."""
    for line in filter(str.strip, text.split("\n")):
        refusing(json.loads)(line)


def refusing(parse: Callable[[str], object]) -> Callable[[str], object]:
    """`parse` of the standard library, for which a refusal is an answer, too."""

    def run(text: str) -> object:
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, csv.Error) as error:
            return str(error)

    return run


def cells(text: str) -> None:
    """The cells of a table, and the strings of a list that Python printed."""
    rows = list(csv.reader(io.StringIO(text)))
    if rows and rows[-1][-1].startswith("["):
        refusing(ast.literal_eval)(rows[-1][-1])


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[str], object]:
    """`read` for a text instead of a path; an error with one line is an answer, too."""
    folder = tempfile.TemporaryDirectory()  # removed at the end
    written = ""

    def run(text: str) -> object:
        nonlocal written
        path = Path(folder.name) / name
        if text != written:
            path.write_text(text, newline="")
            written = text
        try:
            return read(path)
        except TspoError as error:
            return str(error)

    return run


QUESTION = '{"id": "1", "question": "q", "golden_answers": ["a"]}\n'
SHORT = '{"question":"q","answer":"a"}\n'
LINES = repeats("[", "{", "\n", "\u2028", "1", QUESTION, SHORT) | {
    "names like golden_answers": ('{"question": "q"', f', "golden_ans{NUMBER}": 1', "}"),
    "an aliased answer in an object": ("", '{"question":"q","answer":{"value":"a"}}\n', ""),
    "a long line without an end": ('{"question": "', "a", ""),
    "many answers": ('{"id": 1, "question": "q", "answer": "a", "aliases": ["b"', ', "c"', "]}"),
    "a digit too many": ('{"id": ', "1", "}"),
    "deep lists": ('{"id": ', "[", "}"),
}
PASSAGES = (
    LINES
    | repeats('{"id": 1, "contents": "a"}\n', '{"text":""}\n', '{"TEXT":""}\n')
    | {
        "names that differ": ("", f'{{"text":"","{NUMBER}":1}}\n', ""),
        "a long passage": ('{"id": 1, "contents": "', "\u2028", '"}\n'),
    }
)
TABLES = {
    "an open quote": ('id,question,golden_answers\n1,"', "a", ""),
    "a list in a cell": ('id,question,golden_answers\n1,q,"[', "'a', ", "'b']\"\n"),
    "a list with escapes in a cell": (
        'id,question,golden_answers\n1,q,"[',
        "'a', ",
        "'\\n']\"\n",
    ),
    "a list with quotes in a cell": (
        'id,question,golden_answers\n1,q,"[',
        "'\\'', ",
        "'b']\"\n",
    ),
    "a list with both quotes in a cell": (
        'id,question,golden_answers\n1,q,"[',
        '\'a\', ""b"", ',
        "'b']\"\n",
    ),
    "lists in lists": ('id,question,golden_answers\n1,q,"[', "[", ']"\n'),
    "short rows": ("question,answer\n", "q,a\n", ""),
} | repeats(",", '"', "a\n")
ARRAYS = {
    "short questions": (f"[{SHORT}", f",{SHORT}", "]"),
    "an array of objects": ("[{}", ",{}", "]"),
    "an object without an end": ('[{"question": "', "a", ""),
    "deep": ("[", "[", ""),
    "blanks": ("[", " ", ""),
    "a list in an object": ('{"data": [{}', ",{}", "]}"),
    "questions of SQuAD": ('{"data": [{"paragraphs": [{"qas": [{}', ",{}", "]}]}]}"),
}
TOMLS = {
    "dotted": ("a", ".a", " = 1\n"),
    "dotted table": ("[a", ".a", "]\n"),
    "nested": ("a = ", "[", "\n"),
    "inline tables": ("a = ", "{a = ", "\n"),
    "digits": ("a = ", "1", "\n"),
    "open string": ('a = """', '\\"""', "\n"),
}
TURN = '{"text": "<search> a </search>", "passages": [{"id": "1", "contents": "a"}]}, '
USER = '{"messages": [{"role": "user", "content": "'
ASKED = USER + 'q"}, {"role": "assistant", "content": "'
DEMONSTRATIONS = {
    "many turns": ('{"question": "q", "turns": [', TURN, '{"text": "<answer> a </answer>"}]}\n'),
    "short passages": (
        '{"question": "q", "turns": [{"text": "<search>a</search>", "passages": [',
        '{"text":""},',
        '{"text":""}]}, {"text": "<answer>a</answer>"}]}',
    ),
    "answers without an opening": (ASKED, "</answer>", '"}]}\n'),
    "open passages": (ASKED, "</answer><information>", '"}]}\n'),
    "passages": (ASKED, f"<search> a </search><information>{LONG_GOLD}</information>", '"}]}\n'),
    "blanks in an answer": (ASKED, " ", 'a"}]}\n'),
    "blanks in a question": (USER + "Question: a", " ", 'b"}]}\n'),
    "open tags": ('{"question": "q", "turns": [{"text": "', "<search>", '"}]}\n'),
} | repeats("[", "{", "\u2028")
TURNS = '{"question": "q", "golden_answers": ["a"], "trajectories": [{"turns": ['
GROUPS = repeats("[", "{", "1") | {
    "many turns": (
        TURNS.replace('"turns', '"answer": "a", "turns'),
        '{"query": "b", "feedback": "c"}, ',
        "{}]}]}",
    ),
    "empty turns": (TURNS, "{},", "{}]}]}"),
    "names that differ": (TURNS + "{", f'"{NUMBER}": 1, ', '"a": 1}]}]}'),
    "many names": ('{"a": 1', ', "golden_answer": 1', "}"),
}
METRICS = repeats('{"step": 1}\n', "{}\n", '{"\\ud83d": 1}\n', "[", "\u2028", "\n", "1") | {
    "half a character, then three short lines": ("", '{"a": "\\ud83d"}\n' + 3 * "{}\n", ""),
    "half a character, then short lines": ('{"a": "\\ud83d"}\n', "{}\n", ""),
}

PARSERS: dict[str, Parser] = {
    "action tags": Parser(
        lambda text: parse_action(text, finish_reason="stop", may_search=True), TAGS
    ),
    "format reward": Parser(well_formed, TAGS),
    "thoughts": Parser(split_thoughts, TAGS),
    "tool calls": Parser(find_calls, CALLS | TAGS),
    "end tokens": Parser(without_end_tokens, ENDS),
    "answer in words": Parser(after_marker, SPOKEN),
    "first sentence": Parser(first_sentence, SPOKEN | TAGS),
    "verdict of a judge": Parser(verdict, VERDICTS),
    "exact match and F1": Parser(normalize, PLAIN),
    "gold answer in a text": Parser(contains, MATCHES),
    "gold answers marked": Parser(mark, MARKS),
    "shown part of a passage": Parser(
        lambda text: [
            shown_lengths([text], f"<information>Doc 1 {text[:-9]}{end}") for end in ("", "x")
        ],
        repeats("a ", "b", "a b a ") | {"a period that ends": ("", "ab", "x" * 20)},
    ),
    "sentences with an answer": Parser(
        lambda text: (
            _quotation([Hit("1", f'"t"\n{text}', 0.0)], "q", "so"),
            _names(text),
            plain_title(text),
        ),
        repeats("so ", "so. ", "abc. ", "(", "So ", "So. ", "A ", "A b ", "A of ")
        | {"blanks in a title": ("a", " ", "b"), "quotes in a name": ("A", "'", "a")},
    ),
    "questions, JSONL": Parser(in_file("q.jsonl", read_questions), LINES, json_lines),
    "questions, JSON array": Parser(
        in_file("q.json", read_questions), ARRAYS, refusing(json.loads)
    ),
    "questions, CSV": Parser(in_file("q.csv", read_questions), TABLES, refusing(cells)),
    "corpus": Parser(
        in_file("c.jsonl", lambda path: list(read_passages(path))), PASSAGES, json_lines
    ),
    "demonstrations": Parser(in_file("d.jsonl", read_demonstrations), DEMONSTRATIONS, json_lines),
    "group file": Parser(in_file("g.json", read_group), GROUPS, refusing(json.loads)),
    "metrics of a run": Parser(in_file("m.jsonl", read_jsonl), METRICS, json_lines),
    "experiment file": Parser(
        in_file("e.toml", lambda path: list(read_layers(path))), TOMLS, refusing(tomllib.loads)
    ),
}
"""What is measured, by the name in the table."""


def text_of(parts: tuple[str, str, str], size: int) -> str:
    """An input of about `size` bytes of UTF-8."""
    start, repeated, end = parts
    copies = (size - len((start + end).encode())) // len(repeated.encode())
    if NUMBER in repeated:
        return start + "".join(repeated.replace(NUMBER, f"{n:06}") for n in range(copies)) + end
    return start + repeated * copies + end


def milliseconds(run: Callable[[str], object], text: str) -> float:
    """CPU time of a call, the best of some."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        run(text)
        best = min(best, time.process_time() - start)
    return best * 1e3


def main() -> None:
    """Parse the command line and print the rows."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--bytes", type=int, default=1_000_000)
    arguments.add_argument("--all", action="store_true")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--only", help="parsers whose name contains this")
    options = arguments.parse_args()
    rows = []
    if not options.json:
        print(machine())
    for name, parser in PARSERS.items():
        if options.only and options.only not in name:
            continue
        measured = []
        for label, parts in parser.inputs.items():
            quarter = milliseconds(parser.run, text_of(parts, options.bytes // 4))
            whole = milliseconds(parser.run, text_of(parts, options.bytes))
            measured.append((whole, whole / quarter if quarter > 0.05 else 0.0, label))
        for whole, growth, label in sorted(measured, reverse=True)[: None if options.all else 1]:
            row = {"parser": name, "ms": round(whole, 1), "growth": round(growth, 1)}
            text = text_of(parser.inputs[label], options.bytes)
            floor = round(milliseconds(parser.floor, text), 1) if parser.floor else None
            rows.append(row | {"floor": floor, "worst input": label})
            if not options.json:
                shown = f"{row['growth']:6}" if growth else "     -"
                of_library = "" if floor is None else f"{floor} ms"
                print(f"{name:26} {row['ms']:10} ms {shown} {of_library:>11}   {label}", flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "bytes": options.bytes, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
