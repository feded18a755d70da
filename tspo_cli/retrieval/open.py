"""The retriever that a configuration names."""

from __future__ import annotations

from pathlib import Path

from tspo_cli.config.schema import RetrieverConfig
from tspo_cli.retrieval.types import Retriever


def open_retriever(config: RetrieverConfig) -> Retriever | None:
    """An index in this process, or HTTP clients of the servers named; None when neither is set.

    Raises:
        MissingResourceError, InvalidInputError: no index there.
        RemoteServiceError: no server answers.
    """
    if config.index:
        from tspo_cli.retrieval.index import open_index

        return open_index(Path(config.index))
    if config.url:
        from tspo_cli.retrieval.client import HttpRetriever

        client = HttpRetriever(config.url, timeout=config.timeout, retries=config.retries)
        client.check()
        return client
    return None
