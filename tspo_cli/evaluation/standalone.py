"""Evaluate a model: what `tspo eval` does."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.load import load_config
from tspo_cli.config.schema import Config
from tspo_cli.console import progress, say
from tspo_cli.data.schema import Question
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.evaluation.ceiling import ceiling
from tspo_cli.evaluation.engine import Opened, open_engine
from tspo_cli.evaluation.journal import Journal
from tspo_cli.evaluation.judge import Judge, open_judge
from tspo_cli.evaluation.methods import Method, find_method
from tspo_cli.evaluation.metrics import summarize
from tspo_cli.evaluation.runner import evaluate_items, file_name, write_evaluation
from tspo_cli.evaluation.sets import benchmark_size, read_eval_sets
from tspo_cli.evaluation.signature import config_digest, data_digest, retriever_digests, sign
from tspo_cli.evaluation.summary import averages, latency, with_intervals
from tspo_cli.retrieval.open import open_retriever
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.agent_file import read_agent_file
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.runs import environment, is_run, read_json, read_jsonl_gz, write_json

SUMMARY = "eval.json"
TIMINGS = "timings.json"
PORTION_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be evaluated. `limit` takes the first questions of each set, `sample` draws some; 0: all."""

    model: str
    data: tuple[str, ...]
    method: str = "search_r1"
    index: Path | None = None
    urls: tuple[str, ...] = ()
    limit: int = 0
    sample: int = 0
    settings: tuple[str, ...] = ()
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Scores per data set, their averages (empty for a single set), and the folder that holds everything."""

    folder: Path
    results: list[dict[str, Any]]
    average: dict[str, Any]


def evaluate_model(wish: Wish, *, overwrite: bool = False, resume: bool = False) -> Outcome:
    """Answer, score and write `<dataset>.json`, `<dataset>.items.jsonl.gz` and eval.json; timings.json apart from them.

    All but the last are the same to the byte for equal models, data and settings, however often it was interrupted.

    Raises:
        MissingResourceError: no such model, data or index, or a run that has not exported its model yet.
        InvalidInputError: the folder holds an evaluation and neither `overwrite` nor `resume` is given, or what is
            there was begun with other settings.
    """
    method = find_method(wish.method)
    model = model_directory(wish.model)
    config = eval_config(model, wish)
    folder = wish.out or Path("evals") / f"{_label(wish.model)}-{method.name}"
    sets = read_eval_sets(wish.data, wish.limit, wish.sample, config.seed)
    _check_folder(folder, overwrite, resume)
    retriever = open_retriever(config.retriever)
    if method.retrieves and retriever is None:
        raise UsageError(f"method {method.name} needs passages; give --index DIR or --retriever URL")
    opened = open_engine(config)
    session = _Session(folder, method, config, opened, retriever, open_judge(config.judge))
    if overwrite:
        _clear(folder)
    results = [session.dataset(name, questions) for name, questions in sets.items()]
    items = [list(read_jsonl_gz(folder / f"{file_name(name)}.items.jsonl.gz")) for name in sets]
    average = averages(items) if len(sets) > 1 else {}
    record = {"model": str(model), "method": method.name, "command": _command(), "results": results}
    write_json(
        folder / SUMMARY,
        record | {"average": average, "config": config.section_dict(), "environment": environment()},
    )
    return Outcome(folder, results, average)


@dataclass(frozen=True, slots=True)
class _Session:
    folder: Path
    method: Method
    config: Config
    opened: Opened
    retriever: Retriever | None
    judge: Judge | None

    def dataset(self, name: str, questions: list[Question]) -> dict[str, Any]:
        """Scores of one data set, from its file where they are there already."""
        digests = self._digests(questions)
        signature = sign(digests, method=self.method.name, k=self.config.retriever.k)
        path = self.folder / f"{file_name(name)}.json"
        if path.exists() and (known := read_json(path)).get("signature") == signature:
            say(f"{name}: already evaluated")
            return dict(known)
        journal = Journal(self.folder / f"{file_name(name)}.partial.jsonl", signature)
        self._answer(name, questions, journal)
        records = [journal.done[one.key] for one in questions]
        items = [record for record, _ in records]
        scores = summarize(items, dataset=name, method=self.method.name, k=self.config.retriever.k)
        scores = with_intervals(scores, items) | {"ceiling": ceiling(questions, self.retriever)}
        scores |= {"benchmark_size": benchmark_size(name)}
        if self.judge is not None:
            items, judged = self.judge.judge(items, self.folder / f"{file_name(name)}.judge.partial.jsonl", name)
            scores |= judged
        scores |= {"signature": signature, "digests": digests}
        self._note_latency(name, [seconds for _, seconds in records])
        write_evaluation(self.folder, scores, items)
        journal.close()
        return scores

    def _answer(self, name: str, questions: list[Question], journal: Journal) -> None:
        rollout = self.config.rollout
        if self.opened.kind == "chat":
            # The server puts its own template around the messages.
            rollout = rollout.model_copy(update={"chat_template": "never"})
        protocol = SearchProtocol.from_config(self.opened.tokenizer, rollout)
        right = sum(record["em"] for record, _ in journal.done.values())

        with progress(f"{name} {self.method.name}", len(questions)) as advance:

            def finished(record: dict[str, Any], seconds: float) -> None:
                nonlocal right
                right += record["em"]
                journal.add(record["key"], record, seconds)
                advance(1, f"EM {100 * right / len(journal.done):.1f}")

            for portion in self._portions(questions):
                missing = [one for one in portion if one.key not in journal.done]
                if len(missing) < len(portion) and missing and not self.opened.independent:
                    # Answered beside other questions, an item may differ in its last bits: repeat them together.
                    for one in portion:
                        right -= journal.done.pop(one.key, ({"em": 0}, 0))[0]["em"]
                    missing = portion
                advance(len(portion) - len(missing))
                if missing:
                    evaluate_items(
                        missing, self.method, self.opened.fresh(), self.retriever, protocol, self.config, finished
                    )

    def _portions(self, questions: list[Question]) -> Iterator[list[Question]]:
        size = self.config.eval.portion or PORTION_BATCHES * self.config.eval.batch_size
        return (questions[start : start + size] for start in range(0, len(questions), size))

    def _digests(self, questions: list[Question]) -> dict[str, str]:
        return {
            "config": config_digest(self.config),
            "model": self.opened.model,
            "engine": self.opened.kind,
            **retriever_digests(self.retriever, self.config),
            **({"judge": self.judge.digest} if self.judge is not None else {}),
            "data": data_digest(questions),
        }

    def _note_latency(self, name: str, seconds: list[float]) -> None:
        path = self.folder / TIMINGS
        known = read_json(path) if path.exists() else {}
        write_json(path, known | {name: latency(seconds)})


def _check_folder(folder: Path, overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise UsageError("--resume and --overwrite exclude each other")
    begun = folder.is_dir() and ((folder / SUMMARY).exists() or any(folder.glob("*.partial.jsonl")))
    if begun and not (overwrite or resume):
        raise InvalidInputError(
            f"{folder}: already holds an evaluation; add --resume to continue it, --overwrite to replace it, or choose "
            "another --out"
        )


def _clear(folder: Path) -> None:
    for path in [folder / SUMMARY, folder / TIMINGS, *folder.glob("*.partial.jsonl")]:
        path.unlink(missing_ok=True)
    for items in folder.glob("*.items.jsonl.gz"):
        items.with_name(items.name.removesuffix(".items.jsonl.gz") + ".json").unlink(missing_ok=True)
        items.unlink()


def _command() -> str:
    """The command that gives these results from nothing."""
    return shlex.join(["tspo", *(word for word in sys.argv[1:] if word != "--resume")])


def model_directory(model: str) -> Path:
    """The directory that holds the weights: `model` itself, or model/ of a run.

    Raises:
        MissingResourceError: no such directory, or the run has not exported its model.
    """
    path = Path(model)
    if not is_run(path):
        return path
    if not (path / "model").is_dir():
        state = read_json(path / "status.json")["state"] if (path / "status.json").exists() else "not started"
        raise MissingResourceError(f"{path}: this run has no model/ yet ({state}); finish it with tspo train --resume")
    return path / "model"


def eval_config(model_dir: Path, wish: Wish) -> Config:
    """Defaults, then what the model was trained with, then the arguments, then the settings."""
    wanted = read_agent_file(model_dir)
    retriever = {"index": str(wish.index) if wish.index is not None else "", "url": list(wish.urls)}
    table = {
        "model": {"path": str(model_dir)},
        "rollout": wanted.get("rollout", {}),
        "retriever": wanted.get("retriever", {}) | retriever,
        "eval": {"limit": wish.limit},
    }
    return load_config([], [*_as_settings(table), *wish.settings])


def _as_settings(table: dict[str, dict[str, Any]]) -> list[str]:
    return [f"{section}.{key}={json.dumps(value)}" for section, keys in table.items() for key, value in keys.items()]


def _label(model: str) -> str:
    path = Path(model)
    return path.resolve().parent.name if path.name == "model" else path.name
