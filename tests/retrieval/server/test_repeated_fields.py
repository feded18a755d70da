"""A field of a request that is given twice is refused: one of the two would win without a word."""

from __future__ import annotations

import pytest

from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.server.wire_format import SearchRequest, parse_request


def parse(raw: str) -> SearchRequest:
    limits = {"default_k": 3, "max_k": 9, "max_queries": 9, "max_query_chars": 99}
    return parse_request(raw.encode(), **limits)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ('{"queries": ["a"], "queries": ["b"]}', "queries"),
        ('{"query": "a", "topk": 1, "topk": 1}', "topk"),
        ('{"quer\\u0079": "a", "query": "b"}', "query"),
        ('{"query": "a:b", "return_scores": true, "return_scores": false}', "return_scores"),
    ],
)
def test_a_field_that_is_given_twice_is_refused(raw: str, name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{name}: given 2 times; send it once$"):
        parse(raw)


def test_a_query_may_have_colons_and_quotes() -> None:
    query = 'a "query": 1, "query": 2'
    written = query.replace('"', '\\"')
    assert parse(f'{{"query": "{written}", "topk": 2}}') == SearchRequest([query], 2, False)
    with pytest.raises(InvalidInputError, match="topk: expected at most 9, got far more"):
        parse(f'{{"query": "a: b", "topk": {"9" * 4000}}}')
