"""Give generated inputs to every parser and reader, and print those that end in a traceback.

    python experiments/reliability/fuzz.py [--cases 100000] [--seed 0]

An input is made of pieces that mean something to its parser (tags, brackets, fields, escapes, ends
of lines, odd characters), or is a well-formed input with some bytes deleted, repeated or replaced.
Parsers take any text; readers may refuse a file in one line (TspoError) that names a file of data.
The last line has the counts; the exit code is 1 if anything else came out. Equal seeds give equal
cases.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from experiments.benchmarks.common import machine
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sweeps.sweep_file import read_sweep_file
from tspo_cli.console import set_quiet
from tspo_cli.credit.gold_match import Match, contains_answer, exact_match, f1_score
from tspo_cli.credit.laboratory.group_file import read_group
from tspo_cli.credit.outcome import well_formed
from tspo_cli.data.check import check
from tspo_cli.data.readers import read_passages, read_questions
from tspo_cli.errors import TspoError
from tspo_cli.evaluation.judging.verdict import verdict
from tspo_cli.evaluation.methods.call_forms import find_calls, without_end_tokens
from tspo_cli.evaluation.methods.ircot import first_sentence
from tspo_cli.evaluation.methods.plain import after_marker
from tspo_cli.reporting.rendering.marks import marked
from tspo_cli.rollout.protocol import parse_action
from tspo_cli.rollout.shown import shown_lengths
from tspo_cli.rollout.thoughts import split_thoughts
from tspo_cli.runs import dataset_file_name, read_json, read_jsonl, read_jsonl_gz
from tspo_cli.text.printable import one_line, printable
from tspo_cli.text.secrets import without_secrets
from tspo_cli.text.strict_json import json_text
from tspo_cli.training.sft.demonstration_file import read_demonstrations

ODD: tuple[str, ...] = ("\ud800", "\udfff", "\u2028", "\x85", "\x0b", "\x00", "\x1b[31m", "\u202e")
ODD += ("é", "e\u0301")
ODD += ("日本", "😀", "\ufeff", "\t", "\r", "\n", " ", "", '"', "'", "\\", "\\u", "\\ud83d", "\xad")
TEXT_PIECES = (
    *("<search>", "</search>", "<answer>", "</answer>", "<think>", "</think>", "<information>"),
    *("</information>", "<tool_call>", "</tool_call>", "<function=search>", "</function>", "query"),
    *("<parameter=query>", "</parameter>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "```json"),
    *("```", "{", "}", "[", "]", ":", ",", '"name"', '"arguments"', '{"query": "a"}', "</s>", "1"),
    *("<|im_end|>", "answer is", "Answer:", "**", "correct", "incorrect", '{"correct": true}'),
    *("Doc 1(Title: ", "the", "a", "-", ".", "U.S.", "http://u:p@h/?token=x", "1967-1990"),
)
JSON_PIECES = (
    *("{", "}", "[", "]", ":", ",", '"id"', '"question"', '"golden_answers"', '"contents"'),
    *('"title"', '"text"', '"answer"', '"aliases"', '"possible_answers"', '"turns"', '"passages"'),
    *('"trajectories"', '"query"', '"feedback"', '"gold_kind"', '"extra_info"', '"metadata"'),
    *('"supporting_facts"', "null", "true", "1", "-0.5", "1e999", "NaN", "Infinity", "1" * 5000),
    *('"a"', '""', '"[1, 2"', '"\\ud83d"', '"\\ud83d\\ude00"', "[" * 2000, '{"a":' * 2000),
)
QUESTION = '{"id": "1", "question": "who?", "golden_answers": ["Ada"], "aliases": ["A."]}\n'
PASSAGE = '{"id": "1", "title": "t", "text": "a\u2028b"}\n{"id": 2, "contents": "\\"t\\"\\na"}\n'
TABLE = 'id,question,golden_answers\n1,who?,"[""Ada""]"\n2,"a\nb",[\'x\']\n'
TURNS = '[{"text": "<search> a </search>", "passages": [{"id": "1", "contents": "a"}]}, '
DEMONSTRATION = f'{{"question": "q", "turns": {TURNS}{{"text": "<answer> b </answer>"}}]}}\n'
GROUP = (
    '{"question": "q", "golden_answers": ["a"], "trajectories": [{"answer": "a", "turns": '
    '[{"query": "b", "feedback": "a c", "tokens": 3}, {}], "gold_logprobs": [-1.5, -0.5]}]}'
)
EXPERIMENT = 'seed = 1\n[train]\nsteps = 3\n[rollout]\nprompt = "short"\n[credit]\nnorm = "std"\n'
SWEEP = (
    'seeds = [0, 1]\nbaseline = "a"\n[settings]\ntrain.steps = 3\n[arms.a]\nseed = 1\n[arms.b]\n'
    'credit.algorithm = "grpo"\n[axes.x.y]\nseeds = [1]\n[grid]\n"optimizer.lr" = [1e-4, 0.1]\n'
)
METRICS = '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 0.5}\n'
TOML_PIECES = (
    *("[", "]", "{", "}", "=", ".", ",", "#", '"""', "'''", "a", "seed", "train", "1979-05-27"),
    *("arms", "axes", "grid", "base", "baseline", "seeds", "settings", "extends", "inf", "nan"),
    *("0x", "1_0", "9" * 2000, "a." * 40, "[" * 40, "{a=" * 40, "true", '"optimizer.lr"', "\n"),
)


@dataclass(frozen=True)
class Target:
    """What is called with a text, or with a file of that name that holds it; `whole` is well formed
    and is damaged, `pieces` are strung together.
    """

    call: Callable[..., object]
    pieces: tuple[str, ...]
    whole: str = ""
    file: str = ""


def _scores(text: str) -> None:
    exact_match(text, [text, "a"])
    f1_score(text, [text, "b"])
    for match in get_args(Match):
        contains_answer(text, [text[:9], text[-9:], "U.S."], match)


def _marks(text: str) -> None:
    if "".join(marked(text, [text[2:7], "U.S.", "é"])) != text:
        raise AssertionError("marking changes the text")


def _shows(text: str) -> None:
    for shown in (printable(text), one_line(without_secrets(text)), json_text({text: [text]})):
        shown.encode()
        if any(printable(char) != char for char in shown):
            raise AssertionError("a control character is shown")
    dataset_file_name(text).encode()


def _reads(path: Path) -> None:
    check(path)
    read_questions(path)


TARGETS: dict[str, Target] = {
    "action tags": Target(
        lambda text: parse_action(text, finish_reason="length", may_search=True), TEXT_PIECES
    ),
    "format reward": Target(well_formed, TEXT_PIECES),
    "thoughts": Target(split_thoughts, TEXT_PIECES),
    "tool calls": Target(lambda text: find_calls(without_end_tokens(text)), TEXT_PIECES),
    "answer in words": Target(after_marker, TEXT_PIECES),
    "first sentence": Target(first_sentence, TEXT_PIECES),
    "verdict": Target(verdict, TEXT_PIECES),
    "matcher": Target(_scores, TEXT_PIECES),
    "marks": Target(_marks, TEXT_PIECES),
    "shown passages": Target(
        lambda text: shown_lengths([text, text[3:]], f"Doc 1 {text[:9]}"), TEXT_PIECES
    ),
    "display": Target(_shows, TEXT_PIECES),
    "questions": Target(_reads, JSON_PIECES, QUESTION * 3, "q.jsonl"),
    "question array": Target(_reads, JSON_PIECES, f"[{QUESTION},{QUESTION}]", "q.json"),
    "question table": Target(_reads, JSON_PIECES, TABLE, "q.csv"),
    "question columns": Target(_reads, JSON_PIECES, TABLE.replace(",", "\t"), "q.tsv"),
    "packed questions": Target(_reads, JSON_PIECES, QUESTION, "q.jsonl.gz"),
    "corpus": Target(lambda path: list(read_passages(path)), JSON_PIECES, PASSAGE, "c.jsonl"),
    "demonstrations": Target(read_demonstrations, JSON_PIECES, DEMONSTRATION, "d.jsonl"),
    "group": Target(read_group, JSON_PIECES, GROUP, "g.json"),
    "experiment": Target(lambda path: load_config([path]), TOML_PIECES, EXPERIMENT, "e.toml"),
    "sweep": Target(read_sweep_file, TOML_PIECES, SWEEP, "s.toml"),
    "record": Target(read_json, JSON_PIECES, GROUP, "r.json"),
    "metrics": Target(read_jsonl, JSON_PIECES, METRICS, "m.jsonl"),
    "rollouts": Target(lambda path: list(read_jsonl_gz(path)), JSON_PIECES, METRICS, "m.jsonl.gz"),
    "setting": Target(
        lambda text: load_config([], [text]), TOML_PIECES, "train.steps=[1, {a = 2}]"
    ),
}
"""What is tried, by the name that a failure is reported under."""


def generated(target: Target, dice: random.Random) -> bytes:
    """One input as bytes."""
    if target.whole and dice.random() < 0.6:
        data = bytearray(target.whole.encode())
        for _ in range(dice.randrange(1, 5)):
            at = dice.randrange(len(data) + 1)
            end = at + dice.choice((0, 1, 1, 4, 30))
            piece = dice.choice((*target.pieces, *ODD)).encode(errors="surrogatepass")
            kept = bytes(data[at:end])
            data[at:end] = dice.choice((b"", piece, kept * 2, bytes([dice.randrange(256)])))
        return bytes(data)
    pieces = dice.choices((*target.pieces, *ODD), k=dice.randrange(1, 25))
    return dice.choice(("", "", " ", "\n")).join(pieces).encode(errors="surrogatepass")


def _text(data: bytes) -> str:
    """Any text, halves of surrogate pairs included."""
    try:
        return data.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return data.decode(errors="surrogateescape")


def run_case(target: Target, data: bytes, folder: Path) -> str:
    """Call the target. Returns "ok" or "refused"; anything else is raised."""
    if not target.file:
        try:
            target.call(_text(data))
        except TspoError as error:
            return _refusal(error, "")
        return "ok"
    path = folder / target.file
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    try:
        target.call(path)
    except TspoError as error:
        return _refusal(error, str(path) if path.suffix != ".toml" else "")
    return "ok"


def _refusal(error: TspoError, path: str) -> str:
    if len(str(error)) > 2000 or path not in str(error):
        raise AssertionError(f"an error that is too long or does not name {path}: {error}"[:500])
    return "refused"


def main() -> None:
    """Parse the command line, try the cases, print failures and counts."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--cases", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    set_quiet(True)
    dice = random.Random(options.seed)
    names = list(TARGETS)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.cases):
            name = names[number % len(names)]
            data = generated(TARGETS[name], dice)
            try:
                counts[run_case(TARGETS[name], data, Path(folder))] += 1
            except Exception as error:
                counts["failed"] += 1
                reason = f"{type(error).__name__}: {error}"[:200]
                print(json.dumps({"target": name, "reason": reason, "input": repr(data[:300])}))
    found = {"machine": machine(), "cases": options.cases, "seed": options.seed, **counts}
    print(json.dumps(found))
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
