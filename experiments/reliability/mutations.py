"""Run directories, indexes and models that somebody else wrote, damaged: what does tspo say?

    python experiments/reliability/mutations.py [--runs 150] [--indexes 60] [--models 60]
        [--seed 0] [--work DIR] [--list] [--json]

A small world is made, with two indexes, a model, and a run that trained on it. Every mutation
changes one file of a copy (in indexes half of them with the digests written anew, as somebody does
who wants to deceive), and the commands that read it are run. Each command ends in one of these
ways: `refused`, one line and exit code 3 or 4; `same`, exit code 0 and what it prints for the whole
directory; `said`, exit code 0, another result, and a message that says why; `other`, exit code 0
and another result without a word (a value that could be true, or silent acceptance: --list shows
each); `traceback`; `killed`, by a signal or after two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}

from experiments.benchmarks.common import machine
from experiments.reliability.damage import Mutation, fresh_copy
from experiments.reliability.damaged_indexes import bm25_mutations, dense_mutations
from experiments.reliability.damaged_models import model_mutations
from experiments.reliability.damaged_runs import run_mutations
from experiments.reliability.kills import settings, tspo
from tspo_cli.console import set_quiet
from tspo_cli.training.launch import preload  # noqa: F401

LONGEST = 120
ENDS = ("refused", "same", "said", "other", "traceback", "killed")
COLUMNS = ("commands", *ENDS)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (None: killed), and what it wrote."""

    code: int | None
    out: str
    err: str


def run_commands(commands: Sequence[Sequence[str]], scratch: Path) -> list[Ended]:
    """What each `tspo COMMAND` does, in forked children of this process."""
    return [_run(command, scratch) for command in commands]


def _run(command: Sequence[str], scratch: Path) -> Ended:
    out, err = scratch / "out", scratch / "err"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(LONGEST)
            for number, path in enumerate((out, err), start=1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
            sys.argv = ["tspo", *command]
            from tspo_cli.commands.app import main

            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = (path.read_text("utf-8", errors="replace") for path in (out, err))
    return Ended(code if code >= 0 else None, *texts)


def end_of(ended: Ended, whole: Ended) -> str:
    """One of `ENDS`, by comparison with the same command on the whole directory."""
    if ended.code is None:
        return "killed"
    if "Traceback (most recent call last)" in ended.err:
        return "traceback"
    if ended.code in (3, 4) or (ended.code and "error: " in ended.err):
        return "refused"
    if ended.out == whole.out:
        return "same"
    new = set(ended.err.splitlines()) - set(whole.err.splitlines())
    return "said" if new else "other"


@dataclass(frozen=True, slots=True)
class Kind:
    """A directory, its mutations, and the commands that read it (without its path in `{}`)."""

    name: str
    source: Path
    mutations: Sequence[Mutation]
    commands: Sequence[Sequence[str]]


def try_kind(kind: Kind, work: Path, listed: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of ends over all mutations and commands of a kind."""
    place = work / "changed" / kind.source.name
    commands = [[word.replace("{}", str(place)) for word in words] for words in kind.commands]
    fresh_copy(kind.source, place)
    whole = run_commands(commands, work)
    for command, ended in zip(commands, whole, strict=True):
        if ended.code:
            raise SystemExit(f"tspo {' '.join(command)}: {ended.err}")
    counts: Counter[str] = Counter()
    for mutation in kind.mutations:
        fresh_copy(kind.source, place)
        mutation.apply(place)
        for command, ended, expected in zip(
            kind.commands, run_commands(commands, work), whole, strict=True
        ):
            end = end_of(ended, expected)
            counts[end] += 1
            said = (ended.err.strip().splitlines() or [""])[-1]
            listed.append(
                {
                    "kind": kind.name,
                    "mutation": mutation.name,
                    "command": " ".join(command),
                    "end": end,
                    "code": ended.code,
                    "last_line": said[:300],
                }
            )
    return {"kind": kind.name, "cases": len(kind.mutations), "commands": counts.total(), **counts}


def make_world(work: Path) -> dict[str, Path]:
    """A world, its BM25 and dense indexes, and a trained run with model and evaluation."""
    log = work / "log.txt"
    names = ("world", "bm25", "dense", "encoder", "start", "run")
    found = {name: work / name for name in names}
    if (found["run"] / "model").is_dir():
        return found
    sizes = ["--entities", "40", "--test-entities", "30", "--train-questions", "24"]
    world = str(found["world"])
    tspo(["data", "make-world", "--out", world, *sizes, "--test-questions", "8"], log)
    corpus = str(found["world"] / "corpus.jsonl")
    tspo(["index", "build", corpus, "--out", str(found["bm25"])], log)
    make_encoder(found["encoder"], corpus)
    dense = ["--kind", "dense", "--encoder", str(found["encoder"])]
    tspo(["index", "build", corpus, "--out", str(found["dense"]), *dense], log)
    shared = {"retriever.index": found["bm25"], "checkpoint.every": 2}
    made = {**shared, "data.world": world, "eval.data": "[]", "train.steps": 10}
    tspo(["train", "tiny/warmstart", "--out", str(found["start"]), *settings(made)], log)
    tspo([*training(found, found["start"] / "model"), "--out", str(found["run"])], log)
    return found


def training(found: dict[str, Path], model: Path | str) -> list[str]:
    """The arguments of a training of a few seconds on the world."""
    values = {
        "model.path": model,
        "retriever.index": found["bm25"],
        "retriever.k": 2,
        "data.train": json.dumps([str(found["world"] / "train.jsonl")]),
        "eval.data": json.dumps([str(found["world"] / "test.jsonl")]),
        "eval.every": 2,
        "rollout.max_new_tokens": 16,
        "rollout.max_observation_tokens": 96,
        "rollout.questions_per_step": 2,
        "rollout.group_size": 2,
        "train.steps": 4,
        "checkpoint.every": 2,
    }
    return ["train", "tiny/tspo", *settings(values)]


def make_encoder(folder: Path, corpus: str) -> None:
    """A random BERT of one layer, with a vocabulary of the corpus's words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(exist_ok=True)
    words = sorted(set(Path(corpus).read_text("utf-8").lower().split()))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", "utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)


def kinds(found: dict[str, Path], counts: argparse.Namespace, draw: random.Random) -> list[Kind]:
    """The three kinds of directories; the indexes are two."""
    run, test = str(found["run"]), str(found["world"] / "test.jsonl")
    index = [["index", "info", "{}"], ["index", "search", "{}", "Where was Bako born?"]]
    index.append(["index", "verify", "{}"])
    half = counts.indexes // 2
    page = str(found["run"].parent / "page.html")
    scored = ["--out", str(found["run"].parent / "eval"), "--overwrite", "--limit", "2"]
    scored += ["--index", str(found["bm25"]), "--data", test]
    short = ["--set", "rollout.max_new_tokens=8", "--set", "rollout.max_observation_tokens=96"]
    return [
        Kind(
            "run directories",
            found["run"],
            run_mutations(found["run"], counts.runs, draw),
            [
                ["report", "{}", run, "--table", "all", "--json"],
                ["report", "{}", "--html", page],
                ["inspect", "{}"],
                ["inspect", "{}", "--eval", "--step", "0", "--json"],
                ["inspect", "{}", "--eval", "--compare", run],
                ["credit", "{}", "--json"],
                ["runs", "ls", "{}"],
                ["runs", "show", "{}"],
                ["runs", "diff", "{}", run],
                ["doctor", "{}"],
            ],
        ),
        Kind("BM25 indexes", found["bm25"], bm25_mutations(found["bm25"], half, draw), index),
        Kind(
            "dense indexes",
            found["dense"],
            dense_mutations(found["dense"], counts.indexes - half, draw),
            index,
        ),
        Kind(
            "models",
            found["start"] / "model",
            model_mutations(found["start"] / "model", counts.models, draw),
            [
                [*training(found, "{}"), "--out", str(found["run"].parent / "dry"), "--dry-run"],
                ["eval", "{}", *scored, *short],
            ],
        ),
    ]


def table(rows: Iterable[dict[str, Any]]) -> str:
    head = f"{'':<18}{'cases':>7}" + "".join(f"{name:>11}" for name in COLUMNS)
    lines = [
        f"{row['kind']:<18}{row['cases']:>7}" + "".join(f"{row.get(n, 0):>11}" for n in COLUMNS)
        for row in rows
    ]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, count in (("runs", 150), ("indexes", 60), ("models", 60)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder of the world, kept [a temporary one]")
    parser.add_argument("--list", action="store_true", help="every case that was not refused")
    parser.add_argument("--json", action="store_true", help="everything")
    options = parser.parse_args()
    set_quiet(True)
    listed: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        found = make_world(work)
        set_quiet(False)
        chosen = kinds(found, options, random.Random(options.seed))
        rows = []
        for kind in chosen:
            if kind.mutations:
                rows.append(try_kind(kind, work, listed))
                print(table(rows[-1:]), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "kinds": rows, "cases": listed}, indent=2))
    else:
        if options.list:
            for case in listed:
                if case["end"] not in ("refused", "same"):
                    print(
                        f"{case['end']}: {case['mutation']}: {case['command']}: {case['last_line']}"
                    )
        print(f"{machine()}\n{table(rows)}")
    bad = sum(row.get("traceback", 0) + row.get("killed", 0) for row in rows)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
