"""Evaluate a model directory: what `tspo eval` does."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tspo_cli.config.load import load_config
from tspo_cli.config.schema import Config
from tspo_cli.console import progress
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.evaluation.methods import find_method
from tspo_cli.evaluation.metrics import summarize
from tspo_cli.evaluation.runner import evaluate_items, read_eval_sets, write_evaluation
from tspo_cli.models.dtype import torch_dtype
from tspo_cli.models.load import load_model, load_tokenizer
from tspo_cli.retrieval.open import open_retriever
from tspo_cli.rollout.agent import context_length
from tspo_cli.rollout.agent_file import read_agent_file
from tspo_cli.rollout.engines.transformers import TransformersEngine
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.runs import environment, is_run, read_json, write_json

SUMMARY = "eval.json"


def evaluate_model(
    model: str,
    data: Sequence[str],
    *,
    index: Path | None,
    urls: Sequence[str],
    method_name: str,
    limit: int,
    settings: Sequence[str],
    out: Path | None,
    overwrite: bool,
) -> tuple[Path, list[dict[str, Any]]]:
    """Scores per data set, and the folder that holds them with every item (`<dataset>.items.jsonl.gz`).

    Raises:
        MissingResourceError: no such model, data or index, or a run that has not exported its model yet.
        InvalidInputError: `out` holds an evaluation and `overwrite` is False.
    """
    method = find_method(method_name)
    model_dir = model_directory(model)
    config = eval_config(model_dir, index, urls, limit, settings)
    folder = out or Path("evals") / f"{_label(model)}-{method.name}"
    if (folder / SUMMARY).exists() and not overwrite:
        raise InvalidInputError(f"{folder}: already holds an evaluation; add --overwrite or choose another --out")
    sets = read_eval_sets(data, limit)
    retriever = open_retriever(config.retriever)
    torch.set_num_threads(config.train.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer = load_tokenizer(model_dir)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_model(model_dir, torch_dtype(config.model.dtype, device), device)
    engine = TransformersEngine(
        policy, tokenizer, batch_size=config.eval.batch_size, max_context=context_length(config)
    )
    protocol = SearchProtocol.from_config(tokenizer, config.rollout)
    results = []
    for dataset, questions in sets.items():
        with progress(f"{dataset} {method.name}", len(questions)) as advance:
            items = evaluate_items(questions, method, engine, retriever, protocol, config, lambda _: advance(1))
        scores = summarize(items, dataset=dataset, method=method.name, k=config.retriever.k)
        write_evaluation(folder, scores, items)
        results.append(scores)
    command = shlex.join(["tspo", *sys.argv[1:]])
    record = {"model": str(model_dir), "method": method.name, "command": command, "results": results}
    write_json(folder / SUMMARY, record | {"config": config.section_dict(), "environment": environment()})
    return folder, results


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


def eval_config(
    model_dir: Path, index: Path | None, urls: Sequence[str], limit: int, settings: Sequence[str]
) -> Config:
    """Defaults, then what the model was trained with, then the arguments, then `settings`."""
    wanted = read_agent_file(model_dir)
    retriever = {"index": str(index) if index is not None else "", "url": list(urls)}
    table = {
        "model": {"path": str(model_dir)},
        "rollout": wanted.get("rollout", {}),
        "retriever": wanted.get("retriever", {}) | retriever,
        "eval": {"limit": limit},
    }
    return load_config([], [*_as_settings(table), *settings])


def _as_settings(table: dict[str, dict[str, Any]]) -> list[str]:
    import json

    return [f"{section}.{key}={json.dumps(value)}" for section, keys in table.items() for key, value in keys.items()]


def _label(model: str) -> str:
    path = Path(model)
    return path.resolve().parent.name if path.name == "model" else path.name
