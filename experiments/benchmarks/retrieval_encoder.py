"""The encoder backends beside torch in float32: speed on queries and passages, and what is lost of
the recall.

    python experiments/benchmarks/retrieval_encoder.py --encoder DIR --data DIR/nq DIR/hotpotqa ...
    [--passages 2000]

A data directory holds corpus.jsonl.gz and questions.jsonl.gz, whose questions name their gold
passages. The corpus of the measurement is the gold of the questions asked and, up to --passages,
others of the same files. Recall: the share of gold passages among the best k, exact search,
passages and queries by the same backend. Speed: CPU time of the same texts in rounds that take
turns, the best round of each; queries one at a time and in batches of 64, passages in one batch. A
busy machine slows all alike.
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
    asked, gold = [], []
    for folder in folders:
        usable = (
            one for one in read_questions(folder / "questions.jsonl.gz") if one.supporting_ids
        )
        for question in islice(usable, questions):
            asked.append(question.question)
            gold.append(list(question.supporting_ids))
    wanted = {one for ids in gold for one in ids}
    found, others = {}, {}
    for folder in folders:
        for passage in read_passages(folder / "corpus.jsonl.gz"):
            (found if passage.id in wanted else others)[passage.id] = passage.contents
    step = max(1, len(others) // max(1, passages - len(found)))
    rest = list(others.items())[::step]
    return asked, gold, found | dict(rest[: max(0, passages - len(found))])


def recall(
    queries: NDArray[np.float32], rows: NDArray[np.float32], ids: list[str], gold: list[list[str]]
) -> list[float]:
    """Percent of gold passages among the best k, for each k of DEPTHS."""
    best = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, : max(DEPTHS)]
    shares = [
        [
            len({ids[at] for at in row[:k]} & set(wanted)) / len(set(wanted))
            for row, wanted in zip(best, gold, strict=True)
        ]
        for k in DEPTHS
    ]
    return [100 * float(np.mean(one)) for one in shares]


def speed(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """CPU seconds of the best round of each; the rounds take turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            began = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - began)
    return best


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each backend."""
    asked, gold, corpus = texts(options.data, options.questions, options.passages)
    ids, contents = list(corpus), list(corpus.values())
    models = {}
    for backend in options.backends:
        settings = index_settings(
            "dense", {"encoder_backend": backend, "preset": options.preset}
        ).dense
        assert settings is not None
        models[backend] = Encoder(str(options.encoder), settings)
        models[backend].encode_queries(asked[:2])
    rows = {
        name: {"backend": name, "queries": len(asked), "passages": len(ids)}
        | dict(
            zip(
                (f"recall@{k}" for k in DEPTHS),
                recall(model.encode_queries(asked), model.encode_passages(contents), ids, gold),
                strict=True,
            )
        )
        for name, model in models.items()
    }
    some = asked[:64], contents[:: max(1, len(contents) // 32)][:32]
    kinds: dict[str, Callable[[Encoder], Work]] = {
        "single": lambda model: (
            lambda: np.concatenate([model.encode_queries([one]) for one in some[0][:16]])
        ),
        "batch64": lambda model: lambda: model.encode_queries(some[0]),
        "passage": lambda model: lambda: model.encode_passages(some[1]),
    }
    for kind, make in kinds.items():
        seconds = speed({name: make(model) for name, model in models.items()}, options.rounds)
        texts_done = {"single": 16, "batch64": len(some[0]), "passage": len(some[1])}[kind]
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
        f"{platform.machine()}, {os.cpu_count()} cores, "
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
        f"{machine}, load {os.getloadavg()[0]:.1f}; {first['queries']} queries, "
        f"{first['passages']} passages\n"
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
