"""What lies somewhere is untouched by a command that cannot begin, and a finished thing that is
asked for again stays as it is, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tests.models.tiny_gguf import write_gguf


@dataclass(frozen=True)
class Place:
    """One thing of each kind, and the words of the commands that made them."""

    root: Path
    words: dict[str, list[str]]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def place(
    playground: Playground, tspo: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory
) -> Place:
    root = tmp_path_factory.mktemp("place")
    world, test = playground.world, str(playground.world / "test.jsonl")
    write_gguf(root / "tiny.gguf")
    quick = playground.settings(train__steps=1, eval__data="[]", eval__every=0)
    gold = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    corpus = {
        record["id"]: record
        for record in map(json.loads, (world / "corpus.jsonl").read_text().splitlines())
    }
    with open(root / "hotpot.json", "w") as handle:
        rows = [
            {
                "_id": row["id"],
                "question": row["question"],
                "answer": row["golden_answers"][0],
                "context": [
                    [corpus[gold_id]["title"], [corpus[gold_id]["text"]]]
                    for gold_id in row["supporting_ids"]
                ],
                "supporting_facts": [
                    [corpus[gold_id]["title"], 0] for gold_id in row["supporting_ids"]
                ],
            }
            for row in gold[:4]
        ]
        json.dump(rows, handle)
    words = {
        "run": ["train", "tiny/grpo", *quick],
        "evals": [
            *("eval", str(playground.model), "--data", test, "--index", str(playground.index)),
            *("--limit", "4", "--method", "rag"),
        ],
        "index": ["index", "build", str(world / "corpus.jsonl")],
        "world": ["data", "make-world", "--entities", "40", "--train-questions", "20"],
        "model": ["model", "convert", "tiny.gguf"],
    }
    words["world"] += ["--test-entities", "30", "--test-questions", "10"]
    for name, command in words.items():
        tspo(*command, "--out", name, cwd=root)
    tspo("report", "run", "--html", "page.html", cwd=root)
    tspo("data", "convert", "hotpot.json", "questions.jsonl", cwd=root)
    return Place(root, words)


WRONG = [
    ("run", ["--set", "model.path=none"], 4),
    ("run", ["--set", "retriever.index=none"], 4),
    ("run", ["--set", 'data.train=["none.jsonl"]'], 4),
    ("run", ["--set", 'eval.data=["none.jsonl"]'], 4),
    ("run", ["--set", "rollout.prompt=none.txt"], 4),
    ("run", ["--set", 'data.train=["tiny.gguf"]'], 3),
    ("run", ["--set", "retriever.url=http://127.0.0.1:9", "--set", "retriever.index="], 5),
    ("evals", ["--index", "none"], 4),
    ("evals", ["--data", "none.jsonl"], 4),
    ("evals", ["--set", "rollout.prompt=none.txt"], 4),
    ("index", ["--set", "k1=-1"], 3),
    ("world", ["--entities", "1"], 3),
]
"""A place, words that cannot work, and the exit code."""


@pytest.mark.parametrize(("name", "wrong", "code"), WRONG)
def test_overwrite_opens_everything_first(
    place: Place, name: str, wrong: list[str], code: int
) -> None:
    before = contents(place.root)
    done = run_tspo(*place.words[name], *wrong, "--out", name, "--overwrite", cwd=place.root)
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert contents(place.root) == before


@pytest.mark.parametrize(
    "own",
    ["model.path=run/model", "model.path=./run/../run/model", 'eval.data=["run/metrics.jsonl"]'],
)
def test_a_run_does_not_overwrite_what_it_begins_with(place: Place, own: str) -> None:
    before = contents(place.root)
    words = [*place.words["run"], "--set", own, "--out", "run", "--overwrite"]
    done = run_tspo(*words, cwd=place.root)
    assert done.code == 3, done.err
    assert "lies in run, which --overwrite would delete" in done.err
    assert contents(place.root) == before


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("eval none --index index --data questions.jsonl --out evals --overwrite", 4),
        ("eval none --index index --data questions.jsonl --out evals --resume", 4),
        ("index build none.jsonl --out index --overwrite", 4),
        ("index build hotpot.json --out run --overwrite", 3),
        ("index import none.index --corpus hotpot.json --encoder none --out index --overwrite", 4),
        ("model convert none.gguf --out model --overwrite", 4),
        ("model convert hotpot.json --out model --overwrite", 3),
        ("model convert tiny.gguf --out evals --overwrite", 3),
        ("data make-world --out index --overwrite", 3),
        ("data convert none.json questions.jsonl --overwrite", 4),
        ("data convert tiny.gguf questions.jsonl --overwrite", 3),
        ("data convert hotpot.json questions.jsonl", 3),
        ("report none --html page.html", 4),
        ("train tiny/grpo --out evals --overwrite", 3),
        ("train tiny/grpo --out world --resume", 3),
        ("demo --out run --overwrite", 3),
    ],
)
def test_what_is_wrong_leaves_what_lies_there(place: Place, command: str, code: int) -> None:
    before = contents(place.root)
    done = run_tspo(*command.split(), cwd=place.root)
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert contents(place.root) == before


@pytest.mark.parametrize("name", ["run", "evals"])
def test_what_is_finished_stays_finished(place: Place, name: str) -> None:
    before = contents(place.root)
    done = run_tspo(*place.words[name], "--out", name, "--resume", cwd=place.root)
    assert done.code == 0, done.err
    assert contents(place.root) == before
