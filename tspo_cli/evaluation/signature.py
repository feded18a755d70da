"""What a result depends on, as short digests and in one line, so that two figures are known to be comparable or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tspo_cli import __version__
from tspo_cli.config.schema import Config
from tspo_cli.data.schema import Question
from tspo_cli.retrieval.types import Retriever

DIGITS = 12
_MODEL_FILES = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "chat_template*", "vocab.json")


def model_digest(model: str) -> str:
    """Of weights, configuration and tokenizer in a model directory; a name of the hub or of a served model as it is."""
    directory = Path(model)
    if not directory.is_dir():
        return model
    files = sorted({path for pattern in _MODEL_FILES for path in directory.glob(pattern) if path.is_file()})
    return _digest(part for path in files for part in (path.name, _file_digest(path)))


def data_digest(questions: Iterable[Question]) -> str:
    """Of the questions that are asked, in their order, and what counts as their answers and gold passages."""
    return _digest(
        json.dumps([one.key, one.question, one.golden_answers, one.supporting_ids], ensure_ascii=False)
        for one in questions
    )


def retriever_digests(retriever: Retriever | None, config: Config) -> dict[str, str]:
    """`index` (parameters, files, how it is searched) and `corpus`; `retriever`, its URLs, for one behind HTTP."""
    manifest = getattr(retriever, "manifest", None)
    if manifest is None:
        return {"retriever": ",".join(config.retriever.url)} if retriever is not None else {}
    facts = {name: manifest.get(name) for name in ("kind", "passages", "parameters", "encoder", "files")}
    if otherwise := getattr(retriever, "search_settings", {}):
        facts["search"] = otherwise
    return {"index": _digest([json.dumps(facts, sort_keys=True)]), "corpus": manifest["corpus"]["sha256"][:DIGITS]}


def config_digest(config: Config) -> str:
    """Of what changes an answer: prompt, budget, sampling, k and seed. Paths and batch sizes are left out."""
    rollout = config.rollout.model_dump(mode="json", exclude={"questions_per_step", "group_size", "batch_size"})
    facts = {"rollout": rollout, "k": config.retriever.k, "seed": config.seed, "at": config.eval.temperature}
    return _digest([json.dumps(facts, sort_keys=True)])


def sign(digests: dict[str, str], **more: Any) -> str:
    """One line: `tspo:0.1.0|method:rag|k:3|...`, as sacreBLEU's users know it."""
    facts = {"tspo": __version__, **more, **digests}
    return "|".join(f"{name}:{value}" for name, value in facts.items())


def _digest(parts: Iterable[str] | Sequence[str]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()[:DIGITS]


def _file_digest(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
