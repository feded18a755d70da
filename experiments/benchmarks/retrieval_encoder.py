"""The encoder backends compared with torch in float32: speed on queries and passages, and loss of
recall.

    python experiments/benchmarks/retrieval_encoder.py --encoder DIR --data DIR/nq DIR/hotpotqa ...
    [--passages 2000]

A data directory holds corpus.jsonl.gz and questions.jsonl.gz, whose questions name their gold
passages. The corpus of the measurement has the gold passages of the questions and, up to
--passages, others of the same files. Recall: the share of gold passages among the best k of an
exact search, with passages and queries encoded by the same backend. Speed: CPU time of the same
texts in alternating rounds, the best round of each; queries one at a time and in batches of 64,
passages in one batch. Other load on the machine slows all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspo_cli.console import agreeing, counted
from tspo_cli.data.readers import read_passages, read_questions
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.search_settings import index_settings

DEPTHS = (3, 10)
BACKENDS = ("torch", "onnx", "onnx-int8")
Work = Callable[[], NDArray[np.float32]]


def texts(
    folders: Sequence[Path], questions: int, passages: int
) -> tuple[list[str], list[list[str]], dict[str, str]]:
    """Queries, their gold ids, and the passages by id."""
    queries, gold = [], []
    for folder in folders:
        usable = (
            question
            for question in read_questions(folder / "questions.jsonl.gz")
            if question.supporting_ids
        )
        for question in islice(usable, questions):
            queries.append(question.question)
            gold.append(list(question.supporting_ids))
    gold_ids = {passage_id for ids in gold for passage_id in ids}
    gold_passages, distractors = dict[str, str](), dict[str, str]()
    for folder in folders:
        for passage in read_passages(folder / "corpus.jsonl.gz"):
            table = gold_passages if passage.id in gold_ids else distractors
            table[passage.id] = passage.contents
    count = max(0, passages - len(gold_passages))
    spread = list(distractors.items())[:: max(1, len(distractors) // max(1, count))]
    return queries, gold, gold_passages | dict(spread[:count])


def recall(
    queries: NDArray[np.float32], rows: NDArray[np.float32], ids: list[str], gold: list[list[str]]
) -> list[float]:
    """Percent of gold passages among the best k, for each k of DEPTHS."""
    best = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, : max(DEPTHS)]
    shares = [
        [
            len({ids[position] for position in row[:k]} & set(expected)) / len(set(expected))
            for row, expected in zip(best, gold, strict=True)
        ]
        for k in DEPTHS
    ]
    return [100 * float(np.mean(by_query)) for by_query in shares]


def speed(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """CPU seconds of the best round of each; the rounds alternate."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - started)
    return best


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each backend."""
    queries, gold, corpus = texts(options.data, options.questions, options.passages)
    ids, contents = list(corpus), list(corpus.values())
    models = {}
    for backend in options.backends:
        settings = index_settings(
            "dense", {"encoder_backend": backend, "preset": options.preset}
        ).dense
        assert settings is not None
        models[backend] = Encoder(str(options.encoder), settings)
        models[backend].encode_queries(queries[:2])
    rows = {
        name: {"backend": name, "queries": len(queries), "passages": len(ids)}
        | dict(
            zip(
                (f"recall@{k}" for k in DEPTHS),
                recall(model.encode_queries(queries), model.encode_passages(contents), ids, gold),
                strict=True,
            )
        )
        for name, model in models.items()
    }
    timed_queries, timed_passages = queries[:64], contents[:: max(1, len(contents) // 32)][:32]
    kinds: dict[str, Callable[[Encoder], Work]] = {
        "single": lambda model: (
            lambda: np.concatenate([model.encode_queries([query]) for query in timed_queries[:16]])
        ),
        "batch64": lambda model: lambda: model.encode_queries(timed_queries),
        "passage": lambda model: lambda: model.encode_passages(timed_passages),
    }
    for kind, make in kinds.items():
        seconds = speed({name: make(model) for name, model in models.items()}, options.rounds)
        texts_done = {
            "single": 16,
            "batch64": len(timed_queries),
            "passage": len(timed_passages),
        }[kind]
        for name, used in seconds.items():
            rows[name] |= {
                f"{kind}_ms": 1000 * used / texts_done,
                f"{kind}_times": seconds["torch"] / used,
            }
    for row in rows.values():
        row |= {f"lost@{k}": rows["torch"][f"recall@{k}"] - row[f"recall@{k}"] for k in DEPTHS}
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--questions", type=int, default=200, help="with gold passages, of each data directory"
    )
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--preset", default="minilm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.backends = list(dict.fromkeys(["torch", *options.backends]))
    rows = measure(options)
    machine = (
        f"{platform.machine()}, {counted(os.cpu_count() or 1, 'core')}, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    )
    if options.json:
        print(
            json.dumps(
                {"machine": machine, "load_average": os.getloadavg()[0], "rows": rows}, indent=2
            )
        )
        return
    first = rows[0]
    print(
        f"{machine}, load {os.getloadavg()[0]:.1f}; "
        f"{agreeing(first['queries'], 'query', 'queries')}, "
        f"{counted(first['passages'], 'passage')}\n"
    )
    print(f"{'backend':<12}{'recall@3':>10}{'lost':>7}{'recall@10':>11}{'lost':>7}", end="")
    print("".join(f"{kind + ' ms':>12}{'times':>7}" for kind in ("single", "batch64", "passage")))
    for row in rows:
        print(f"{row['backend']:<12}", end="")
        print(
            f"{row['recall@3']:>10.2f}{row['lost@3']:>7.2f}{row['recall@10']:>11.2f}{row['lost@10']:>7.2f}",
            end="",
        )
        print(
            "".join(
                f"{row[f'{k}_ms']:>12.2f}{row[f'{k}_times']:>7.2f}"
                for k in ("single", "batch64", "passage")
            )
        )


if __name__ == "__main__":
    main()
