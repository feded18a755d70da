"""What a result depends on, as short digests and in one line, so that two figures are known to be
comparable or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tspo_cli import __version__
from tspo_cli.config.schema import Config
from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Retriever

DIGITS = 12
_NO_ANSWER_DEPENDS_ON = {
    "temperature",
    "questions_per_step",
    "group_size",
    "batch_size",
    "engine",
    "turn_deadline",
    "dynamic_sampling",
    "max_refills",
}
_CONNECTION = {
    "index",
    "url",
    "servers",
    "approximate_shards",
    "timeout",
    "retries",
    "deadline",
    "concurrency",
    "token_file",
    "qdrant",
    "search",
}
_MODEL_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "vocab.json",
)


def model_digest(model: str) -> str:
    """Of weights, configuration and tokenizer in a model directory; a name of the hub or of a
    served model as it is.
    """
    directory = Path(model)
    if not directory.is_dir():
        return model
    files = sorted(
        {path for pattern in _MODEL_FILES for path in directory.glob(pattern) if path.is_file()}
    )
    return _digest(part for path in files for part in (path.name, _file_digest(path)))


def data_digest(questions: Iterable[Question]) -> str:
    """Of the questions that are asked, in their order, and what counts as their answers and gold
    passages.
    """
    return _digest(
        json.dumps(
            [one.key, one.question, one.golden_answers, one.supporting_ids], ensure_ascii=False
        )
        for one in questions
    )


def retriever_digests(retriever: Retriever | None, config: Config) -> dict[str, str]:
    """`index` (the whole of it, as /healthz of `tspo serve` has it too), `search` where it is
    searched otherwise than built, and `corpus`, where that is known; for servers of other makers,
    shards and collections `retriever`, their URLs.
    """
    if retriever is None:
        return {}
    info = retriever.describe()
    if info.index_digest:
        corpus = {"corpus": info.corpus_digest[:DIGITS]} if info.corpus_digest else {}
        return {"index": info.index_digest[:DIGITS], **corpus, **_search(info.search)}
    qdrant = config.retriever.qdrant
    return {"retriever": ",".join(config.retriever.url) or f"{qdrant.url}/{qdrant.collection}"}


def _search(settings: Mapping[str, Any]) -> dict[str, str]:
    return {"search": _digest([json.dumps(settings, sort_keys=True)])} if settings else {}


def config_digest(config: Config) -> str:
    """Of what changes an answer: prompt, budget, sampling, k and seed, and how an endpoint is
    asked. What concerns training, paths, connections and batch sizes is left out.
    """
    facts = {
        "rollout": config.rollout.model_dump(mode="json", exclude=_NO_ANSWER_DEPENDS_ON),
        "retriever": config.retriever.model_dump(mode="json", exclude=_CONNECTION),
        "seed": config.seed,
        "temperature": config.eval.temperature,
        "max_context": config.model.max_context,
        "endpoint": [config.endpoint.api, config.endpoint.extra] if config.endpoint.url else [],
    }
    return _digest([json.dumps(facts, sort_keys=True)])


def sign(digests: dict[str, str], **more: Any) -> str:
    """One line: `tspo:0.2.0|method:rag|k:3|...`, as sacreBLEU's users know it."""
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
