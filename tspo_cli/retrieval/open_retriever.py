"""The retriever that a configuration names."""

from __future__ import annotations

from pathlib import Path

from tspo_cli.config.rules import SEARCH_NEEDS_AN_INDEX
from tspo_cli.config.schema import RetrieverConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.types import Retriever


def open_retriever(config: RetrieverConfig) -> Retriever | None:
    """An index in this process, an HTTP client, or a Qdrant collection; None if none is configured.

    Raises:
        MissingResourceError, InvalidInputError: there is no such index, the search settings do not
            fit it, or the servers do not fit together.
        RemoteServiceError: no server answers.
    """
    if config.index:
        from tspo_cli.retrieval.index.searcher import open_index

        return open_index(Path(config.index), config.search.given())
    if config.search.given():
        raise InvalidInputError(SEARCH_NEEDS_AN_INDEX)
    if config.url:
        return _open_servers(config)
    if config.qdrant.url:
        from tspo_cli.retrieval.remote.patience import Patience
        from tspo_cli.retrieval.remote.qdrant import connect

        return connect(
            config.qdrant,
            timeout=config.timeout,
            patience=Patience(config.deadline, config.retries),
            max_passage_chars=config.max_passage_chars,
        )
    return None


def _open_servers(config: RetrieverConfig) -> Retriever:
    from tspo_cli.retrieval.remote.fanout import ShardedRetriever
    from tspo_cli.retrieval.remote.http_client import HttpRetriever
    from tspo_cli.text.access_token import RETRIEVER_TOKEN, read_token

    token = read_token(RETRIEVER_TOKEN, config.token_file)

    def client(urls: list[str]) -> HttpRetriever:
        return HttpRetriever(
            urls,
            timeout=config.timeout,
            retries=config.retries,
            deadline=config.deadline,
            concurrency=config.concurrency,
            token=token,
            max_passage_chars=config.max_passage_chars,
        )

    if config.servers == "replicas":
        replicas = client(config.url)
        replicas.check()
        return replicas
    shards = ShardedRetriever(
        [client([url]) for url in config.url],
        approximate=config.approximate_shards,
        concurrency=config.concurrency,
    )
    shards.check()
    return shards
