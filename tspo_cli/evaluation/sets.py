"""The questions of an evaluation: whole data sets, their first questions, or random samples."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.data.benchmarks import benchmarks
from tspo_cli.data.hub import PREFIX
from tspo_cli.data.question import Question, data_digest
from tspo_cli.data.readers import (
    data_roots,
    default_data_source,
    read_questions,
    resolve_data,
    stem_of,
)
from tspo_cli.errors import UsageError
from tspo_cli.plain_files import same_file_name
from tspo_cli.runs import dataset_file_name


def read_eval_sets(
    names: Sequence[str], limit: int, sample: int = 0, seed: int = 0
) -> dict[str, list[Question]]:
    """Questions by data set name. A benchmark of the registry has its own name. Other files are
    called by the `data_source` of their records, one data set for each; where the records have
    none, by the name of the file, or of the folder for questions.jsonl, questions.csv and the like.

    `limit` keeps the first questions of each set, `sample` that many random ones (0: all). The
    order of the file is kept.

    Raises:
        UsageError: two data sets have the same name, or names that only differ in characters that
            no file name can have, in case, or in how Unicode composes their letters.
    """
    registry = benchmarks(data_roots())
    sets: dict[str, list[Question]] = {}
    files: dict[str, str] = {}
    for name in names:
        path = resolve_data(name)
        stem = stem_of(path)
        if name in registry:
            parts = {name: read_questions(path, limit=limit, source=name)}
        else:
            parts = _by_source(read_questions(path, source=_file_name(path, registry)))
        for source, questions in parts.items():
            dataset = source if source not in sets else f"{source}_{stem}"
            if dataset in sets:
                raise UsageError(
                    f"--data: {path} and another file are both called {dataset!r}; rename one"
                )
            file = same_file_name(dataset_file_name(dataset))
            if file in files:
                raise UsageError(
                    f"--data: the data sets {files[file]!r} and {dataset!r} would be written to "
                    "the same file (there are file systems where case does not count); rename one"
                )
            files[file] = dataset
            kept = questions[: limit or None]
            sets[dataset] = draw(kept, sample, seed) if sample else kept
    return sets


def question_digests(config: Config) -> dict[str, str]:
    """Digests of the questions that a training is evaluated on, by data set.

    Raises:
        TspoError: they cannot be read.
    """
    sets = read_eval_sets(config.eval.data, config.eval.limit)
    return {dataset: data_digest(questions) for dataset, questions in sets.items()}


def _file_name(path: Path, registry: Container[str]) -> str:
    """The name of a file whose records do not say where they are from: dev for dev.jsonl, nq for
    nq/questions.jsonl, and also for nq/test.jsonl, because nq is a benchmark.
    """
    folder, stem = path.resolve().parent.name, stem_of(path)
    is_own = stem == "questions" or folder in registry or str(path).startswith(PREFIX)
    return default_data_source(path) if is_own else stem


def _by_source(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """The questions of each data source, by first appearance."""
    parts: dict[str, list[Question]] = {}
    for question in questions:
        parts.setdefault(question.data_source, []).append(question)
    return parts


def benchmark_size(dataset: str) -> int | None:
    """Number of questions of the whole benchmark; None for other data sets."""
    known = benchmarks(data_roots()).get(dataset)
    return known.size or None if known is not None else None


def shared_questions(sets: Mapping[str, Sequence[Question]]) -> Iterator[str]:
    """A sentence for every two data sets that have questions in common, word for word."""
    texts = {name: {question.question for question in sets[name]} for name in sets}
    for one, other in combinations(texts, 2):
        if common := len(texts[one] & texts[other]):
            yield (
                f"{one} and {other} have {counted(common, 'question')} in common, which "
                f"count twice in the "
                "averages"
            )


def draw(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """A random sample of `count` questions, in their order.

    The rank of a question depends only on `seed` and its key, so that a larger sample contains the
    smaller one.
    """
    keys = [question.key for question in questions]
    ranked = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}|{key}".encode()).digest())
    chosen = set(ranked[:count])
    return [question for question in questions if question.key in chosen]
