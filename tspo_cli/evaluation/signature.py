"""The signature of a result: digests of everything that the result depends on, in one line.

Two scores are comparable if their signatures differ only in what is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tspo_cli import __version__
from tspo_cli.config.schema import Config, EndpointConfig
from tspo_cli.config.tables import flatten
from tspo_cli.digests import DIGITS, text_digest
from tspo_cli.evaluation.methods.examples import Example
from tspo_cli.retrieval.types import Retriever
from tspo_cli.text.secrets import values_without_secrets, without_secrets

# Keys of [rollout] that do not change a greedy answer, and keys of [retriever] that say only where
# passages come from.
WITHOUT_EFFECT = {
    "temperature",
    "questions_per_step",
    "group_size",
    "batch_size",
    "engine",
    "turn_deadline",
    "dynamic_sampling",
    "max_refills",
    "schedule",
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
    "max_passage_chars",
    "token_file",
    "qdrant",
    "search",
}


def examples_digest(examples: Iterable[Example]) -> str:
    """Digest of the few-shot examples in their order."""
    return text_digest(
        json.dumps([example.question, example.answer, example.reply], ensure_ascii=False)
        for example in examples
    )


def retriever_digests(retriever: Retriever | None, config: Config) -> dict[str, str]:
    """Digests of the retriever.

    For an index, here or behind `tspo serve`: `index` (the digest that /healthz reports), `search`
    if search settings differ from those of the build, `corpus` if it is known, and `reranker` if
    its files are. For other servers, shards and collections: `retriever`, their URLs; and `search`
    if a collection's queries have a prefix.
    """
    if retriever is None:
        return {}
    info = retriever.describe()
    if info.index_digest:
        corpus = {"corpus": info.corpus_digest[:DIGITS]} if info.corpus_digest else {}
        reranker = {"reranker": info.reranker_digest[:DIGITS]} if info.reranker_digest else {}
        search = _search(info.search)
        return {"index": info.index_digest[:DIGITS], **corpus, **search, **reranker}
    if config.retriever.url:
        return {"retriever": without_secrets(",".join(config.retriever.url))}
    qdrant = config.retriever.qdrant
    source = without_secrets(f"{qdrant.url}/{qdrant.collection}")
    return {"retriever": source, **_search(info.search)}


def _search(settings: Mapping[str, Any]) -> dict[str, str]:
    return {"search": text_digest([json.dumps(settings, sort_keys=True)])} if settings else {}


def config_digest(config: Config) -> str:
    """Digest of the settings that change an answer: prompt, budget, sampling, k, seed, the head
    and the API of an endpoint. Training, paths, connections and batch sizes are left out.
    """
    facts = {
        "rollout": config.rollout.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "retriever": config.retriever.model_dump(mode="json", exclude=_CONNECTION),
        "seed": config.seed,
        "temperature": config.eval.temperature,
        "match": config.credit.match,
        "max_context": config.model.max_context,
        "endpoint": _endpoint(config.endpoint) if config.endpoint.url else [],
    }
    if config.model.float32_head and not config.endpoint.url:
        facts["float32_head"] = True
    return text_digest([json.dumps(facts, sort_keys=True)])


def answer_settings(config: Config) -> dict[str, Any]:
    """The settings that `config_digest` counts, by key, without secrets."""
    rollout = config.rollout.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    retriever = config.retriever.model_dump(mode="json", exclude=_CONNECTION)
    table = {
        "rollout": rollout,
        "retriever": retriever,
        "seed": config.seed,
        "eval": {"temperature": config.eval.temperature},
        "credit": {"match": config.credit.match},
        "model": config.model.model_dump(include={"max_context", "float32_head"}),
        "endpoint": config.endpoint.model_dump(mode="json", include={"api", "extra", "drop"}),
    }
    settings: dict[str, Any] = values_without_secrets(flatten(table))
    return settings


def _endpoint(endpoint: EndpointConfig) -> list[Any]:
    """What changes an answer. A field with another name has the same effect."""
    dropped = [sorted(endpoint.drop)] if endpoint.drop else []
    return [endpoint.api, endpoint.extra, *dropped]


def sign(digests: dict[str, str], **more: Any) -> str:
    """One line: `tspo:0.2.0|method:rag|k:3|...`, in the style of sacreBLEU."""
    facts = {"tspo": __version__, **more, **digests}
    return "|".join(f"{name}:{value}" for name, value in facts.items())
