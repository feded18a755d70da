"""Run directories, indexes and models that somebody else wrote, damaged: what does tspo say?

    python experiments/reliability/mutations.py [--runs 150] [--indexes 60] [--models 60]
        [--checkpoints 40] [--only KIND] [--seed 0] [--work DIR] [--json]

A small world is made, with two indexes, a model, and a run that trained on it, whose checkpoints
are resumed from. Every mutation changes one file of a copy (in indexes half of them with the
digests written anew, as somebody does who wants to deceive), and the commands that read it are run.
Each command ends in one of these ways: `refused`, one line and exit code 3 or 4; `same`, what it
prints (and the files of a training) as for the whole directory; `said`, another result, and a
message or an exit code that says so; `other`, exit code 0 and another result without a word (a
value that could be true, or silent acceptance: stderr has each); `unclear`, exit code 3 or 4
without exactly one line of an error; `traceback`; `killed`, by a signal or after two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}

from experiments.benchmarks.common import machine
from experiments.reliability.damage import Mutation, fresh_copy
from experiments.reliability.damaged_checkpoints import checkpoint_mutations
from experiments.reliability.damaged_indexes import bm25_mutations, dense_mutations
from experiments.reliability.damaged_models import model_mutations
from experiments.reliability.damaged_runs import run_mutations
from experiments.reliability.kills import contents, forked, settings, tspo
from tspo_cli.console import set_quiet
from tspo_cli.digests import text_digest
from tspo_cli.training.launch import preload  # noqa: F401

LONGEST = 120
COUNTS = (("runs", 150), ("indexes", 60), ("models", 60), ("checkpoints", 40))
ENDS = ("refused", "same", "said", "other", "unclear", "traceback", "killed")
_FREE = re.compile(r"[\d.]+ GiB free")
"""The room of the disk, which changes while others write."""
COLUMNS = ("commands", *ENDS)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (None: killed), and what it wrote."""

    code: int | None
    out: str
    err: str


def run_command(kind: Kind, command: Sequence[str], place: Path) -> Ended:
    """What `tspo COMMAND` does to the directory `place`."""
    out, err = (place.with_name(f"{place.name}.{name}") for name in ("out", "err"))
    out.unlink(missing_ok=True)
    err.unlink(missing_ok=True)
    words = [word.replace("{}", str(place)) for word in command]
    code, _ = forked(lambda: signal.alarm(LONGEST), words, out, err)
    texts = [_FREE.sub("", path.read_text("utf-8", errors="replace")) for path in (out, err)]
    return Ended(code if code >= 0 else None, texts[0] + kind.result(place), texts[1])


def end_of(ended: Ended, whole: Ended) -> str:
    """One of `ENDS`, by comparison with the same command on the whole directory."""
    if ended.code is None:
        return "killed"
    if "Traceback (most recent call last)" in ended.err:
        return "traceback"
    new = set(ended.err.splitlines()) - set(whole.err.splitlines())
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    if ended.code in (3, 4):
        return "refused" if len(errors) == 1 else "unclear"
    if ended.out == whole.out:
        return "same"
    # `tspo doctor` says on stdout what is missing.
    new |= {
        line
        for line in set(ended.out.splitlines()) - set(whole.out.splitlines())
        if line[:5] == "note "
    }
    # `tspo index info` says so of every index, and shows what the manifest says.
    new |= {line for line in ended.out.splitlines() if "contents were not read" in line}
    return "said" if new or ended.code else "other"


@dataclass(frozen=True, slots=True)
class Kind:
    """A directory, its mutations, and the commands that read it (without its path in `{}`)."""

    name: str
    source: Path
    mutations: Sequence[Mutation]
    commands: Sequence[Sequence[str]]
    result: Callable[[Path], str] = lambda place: ""
    """What commands leave, which is compared as what they print is."""


def try_kind(kind: Kind, work: Path, listed: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of ends over all mutations and commands of a kind."""
    place = work / "changed" / kind.source.name
    fresh_copy(kind.source, place)
    whole = [run_command(kind, command, place) for command in kind.commands]
    for command, ended in zip(kind.commands, whole, strict=True):
        if ended.code:
            raise SystemExit(f"tspo {' '.join(command)}: {ended.err}")
    counts: Counter[str] = Counter()
    for mutation in kind.mutations:
        fresh_copy(kind.source, place)
        mutation.apply(place)
        for command, expected in zip(kind.commands, whole, strict=True):
            ended = run_command(kind, command, place)
            end = end_of(ended, expected)
            counts[end] += 1
            said = (ended.err.strip().splitlines() or [""])[-1]
            case = {
                "kind": kind.name,
                "mutation": mutation.name,
                "command": " ".join([*command[:2], *command[3:4]]),
                "end": end,
                "code": ended.code,
                "last_line": said[:300],
            }
            listed.append(case)
            if end not in ("refused", "same"):
                print(json.dumps(case), file=sys.stderr, flush=True)
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
        "loss.entropy": 0.001,  # every step moves the weights, whatever the rewards
        "train.steps": 4,
        "checkpoint.every": 2,
    }
    return ["train", "tiny/tspo", *settings(values)]


def digests(run: Path) -> str:
    """What a training left, without the damaged checkpoints that it put aside."""
    left = {name: data for name, data in contents(run).items() if "/damaged_" not in name}
    parts = (part for name, data in left.items() for part in (name, data.hex()))
    return text_digest(parts)


def make_encoder(folder: Path, corpus: str) -> None:
    """A random BERT of one layer, with a vocabulary of the corpus's words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast  # type: ignore[attr-defined]

    folder.mkdir(exist_ok=True)
    words = sorted(set(Path(corpus).read_text("utf-8").lower().split()))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", "utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
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
    """The four kinds of directories; the indexes are two."""
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
        Kind(
            "checkpoints",
            found["run"],
            checkpoint_mutations(found["run"], counts.checkpoints, draw),
            [
                [
                    *training(found, found["start"] / "model"),
                    *("--out", "{}", "--resume", "--set", "train.steps=6"),
                ]
            ],
            digests,
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
    for name, count in COUNTS:
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder of the world, kept [a temporary one]")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
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
            if options.only in kind.name:
                rows.append(try_kind(kind, work, listed))
                print(table(rows[-1:]), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "kinds": rows, "cases": listed}, indent=2))
    else:
        print(f"{machine()}\n{table(rows)}")
    bad = sum(row.get("traceback", 0) + row.get("killed", 0) for row in rows)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
