"""What each form of `credit.match` finds on real questions, what it finds by mistake, and its time.

    python experiments/benchmarks/answer_matching.py DATA [--k 3] [--json]

DATA is a folder of question sets, each with questions.jsonl.gz and corpus.jsonl.gz. Every question
is searched with BM25. `found`: questions with a gold answer in one of the k passages (yes/no
answers left out). `false`: questions in whose passages the gold answers of the next question of the
set "occur", which is the false-positive meter of training. `gained` and `lost` compare with
norm_token_boundary. CPU microseconds are those of one question with k passages that the process has
not seen; all forms take turns in every round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tspo_cli.credit.gold_match import Match, clear_texts, contains_answer, is_degenerate
from tspo_cli.data.readers import read_questions
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index

FORMS: tuple[Match, ...] = get_args(Match)
OLD: Match = "norm_token_boundary"
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """A question's gold answers without yes, no and single characters, and its k passages."""

    golds: tuple[str, ...]
    texts: tuple[str, ...]

    def found(self, golds: tuple[str, ...], form: Match) -> bool:
        """True if one of these answers is in a passage."""
        return any(contains_answer(text, golds, form) for text in self.texts)


def read(folder: Path, k: int) -> list[Asked]:
    """The questions of a set with their passages, by BM25 with tspo's defaults."""
    questions = read_questions(folder / "questions.jsonl.gz")
    with tempfile.TemporaryDirectory() as place:
        build_index(folder / "corpus.jsonl.gz", Path(place) / "index")
        results = open_index(Path(place) / "index").search([q.question for q in questions], k)
    asked = [
        Asked(
            tuple(gold for gold in question.golden_answers if not is_degenerate(gold)),
            tuple(f"{hit.title} {hit.text}" for hit in result.hits),
        )
        for question, result in zip(questions, results, strict=True)
    ]
    return [one for one in asked if one.golds]


def measure(name: str, asked: list[Asked]) -> dict[str, Any]:
    """One row: the counts of every form."""
    found = {form: [one.found(one.golds, form) for one in asked] for form in FORMS}
    others = [*asked[1:], *asked[:1]]
    pairs = [(one, other) for one, other in zip(asked, others, strict=True) if one != other]
    row: dict[str, Any] = {"dataset": name, "n": len(asked)}
    for form in FORMS:
        row[form] = {
            "found": sum(found[form]),
            "gained": sum(a and not b for a, b in zip(found[form], found[OLD], strict=True)),
            "lost": sum(b and not a for a, b in zip(found[form], found[OLD], strict=True)),
            "false": sum(one.found(other.golds, form) for one, other in pairs),
        }
    return row


def speed(asked: list[Asked]) -> dict[str, float]:
    """CPU microseconds per question of every form: the best of some rounds, in which the forms
    take turns.
    """
    best = dict.fromkeys(FORMS, float("inf"))
    for _ in range(ROUNDS):
        for form in FORMS:
            clear_texts()
            start = time.process_time()
            for one in asked:
                one.found(one.golds, form)
            best[form] = min(best[form], (time.process_time() - start) / len(asked) * 1e6)
    return {form: round(value, 1) for form, value in best.items()}


def main() -> None:
    """Parse the command line and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folders = sorted(path.parent for path in arguments.data.glob("*/questions.jsonl.gz"))
    sets = {folder.name: read(folder, arguments.k) for folder in folders}
    rows = [measure(name, asked) for name, asked in sets.items()]
    microseconds = speed([one for asked in sets.values() for one in asked])
    if arguments.json:
        print(json.dumps({"rows": rows, "microseconds": microseconds}, indent=2))
        return
    for form in FORMS:
        print(f"\n{form}: {microseconds[form]} µs, {microseconds[form] / microseconds[OLD]:.2f} x")
        keys = ("found", "gained", "lost", "false")
        for row in rows:
            print(f"  {row['dataset']:18} n {row['n']:5}", *(f"{k} {row[form][k]:5}" for k in keys))
        total = {key: sum(row[form][key] for row in rows) for key in keys}
        print(f"  {'all':18} n {sum(r['n'] for r in rows):5}", *(f"{k} {total[k]:5}" for k in keys))


if __name__ == "__main__":
    main()
